"""A block in the row order in which the gates hold round keys.

Rows 0 and 1 of each column come first, then rows 2 and 3.
"""


def in_rows(block: bytes) -> bytes:
    """Return 16 bytes as aes_pkg::to_rows lays them out."""
    columns = [block[i : i + 4] for i in range(0, 16, 4)]
    return b"".join(column[:2] for column in columns) + b"".join(column[2:] for column in columns)


def from_rows(rows: bytes) -> bytes:
    """Return the block that in_rows() laid out."""
    return b"".join(rows[i : i + 2] + rows[8 + i : 10 + i] for i in range(0, 8, 2))
