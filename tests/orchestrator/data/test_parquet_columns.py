from pathlib import Path

from orchestrator.data.parquet_columns import has_parquet


def test_has_parquet(tmp_path: Path) -> None:
    assert not has_parquet(tmp_path)
    assert not has_parquet(tmp_path / "nowhere")
    file = tmp_path / "train.parquet"
    file.touch()
    assert has_parquet(tmp_path)
    assert not has_parquet(file)
