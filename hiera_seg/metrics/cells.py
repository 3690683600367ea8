"""Store a matrix of counts as its nonzero cells, for trees of thousands of leaves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cells:
    """Nonzero cells of an integer matrix.

    Attributes:
        shape: (rows, columns) of the matrix; metrics have predictions in rows and truth in columns.
        rows, columns: int64 (M,), the index of each cell, in the order of the matrix.
        counts: int64 (M,), the value of each cell.
    """

    shape: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, matrix: "Cells | np.ndarray") -> "Cells":
        """Return the nonzero cells of a matrix, or cells as they are."""
        if isinstance(matrix, Cells):
            return matrix
        matrix = np.asarray(matrix)
        keys = np.flatnonzero(matrix)
        counts = matrix.reshape(-1)[keys].astype(np.int64)
        return cls(matrix.shape, *np.divmod(keys, matrix.shape[1]), counts)

    @classmethod
    def total(cls, parts: Sequence["Cells"]) -> "Cells":
        """Return the sum of matrices of the same shape."""
        return cls._summed(
            parts[0].shape,
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.columns for part in parts]),
            np.concatenate([part.counts for part in parts]),
        )

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> "Cells":
        """Return a matrix of zeros."""
        return cls(shape, *np.zeros((3, 0), np.int64))

    def relabel(self, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> "Cells":
        """Map row and column indices through tables, and sum the cells that coincide.

        Args:
            rows, columns: int64, the new index of each old one. Cells whose new column is outside
                `shape` are dropped.
            shape: shape of the new matrix.
        """
        column = columns[self.columns]
        kept = (column >= 0) & (column < shape[1])
        return self._summed(shape, rows[self.rows[kept]], column[kept], self.counts[kept])

    @classmethod
    def _summed(
        cls, shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray, counts: np.ndarray
    ) -> "Cells":
        keys, place = np.unique(rows * shape[1] + columns, return_inverse=True)
        return cls(shape, *np.divmod(keys, shape[1]), _sums(place, counts, len(keys)))

    @property
    def matrix(self) -> np.ndarray:
        """int64 (rows, columns), the matrix itself."""
        matrix = np.zeros(self.shape, np.int64)
        matrix[self.rows, self.columns] = self.counts
        return matrix

    def column_sums(self) -> np.ndarray:
        """Return int64 (columns,)."""
        return _sums(self.columns, self.counts, self.shape[1])

    def row_sums(self) -> np.ndarray:
        """Return int64 (rows,)."""
        return _sums(self.rows, self.counts, self.shape[0])

    def diagonal(self) -> np.ndarray:
        """Return int64 (columns,)."""
        same = self.rows == self.columns
        return _sums(self.columns[same], self.counts[same], self.shape[1])


def _sums(index: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    sums = np.zeros(size, np.int64)
    np.add.at(sums, index, counts)
    return sums
