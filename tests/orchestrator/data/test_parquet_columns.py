from pathlib import Path

from orchestrator.data.parquet_columns import files_of_parts, has_parquet


def test_has_parquet(tmp_path: Path) -> None:
    assert not has_parquet(tmp_path)
    assert not has_parquet(tmp_path / "nowhere")
    file = tmp_path / "train.parquet"
    file.touch()
    assert has_parquet(tmp_path)
    assert not has_parquet(file)


def test_what_a_mac_adds_beside_each_file_is_none_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "._train.parquet").touch()
    assert not has_parquet(tmp_path)
    file = tmp_path / "train.parquet"
    file.touch()
    assert files_of_parts(tmp_path, ["train", "test"]) == {"train": [file], "test": []}
