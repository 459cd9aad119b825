"""Tables in Parquet files that may be replaced while they are read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.storage.whole_files import read_whole


def read_table(path: Path) -> pa.Table:
    """All of a Parquet file, as it was at one moment.

    Read from memory, as a memory-mapped or lazily read file would change under the reader; and by this thread alone, as
    one of Arrow's own that lets go of the memory while the interpreter ends aborts the process.

    Raises:
        InputError: if the file cannot be read.
        pyarrow.ArrowException, OSError: if what is in it is no Parquet, or damaged.
    """
    with pq.ParquetFile(pa.BufferReader(read_whole(path))) as file:
        return file.read(use_threads=False)
