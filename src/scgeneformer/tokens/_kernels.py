"""Loops over stored values. They use no Python objects and release the GIL, so that threads run in parallel."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

NEGATIVE, NOT_FINITE, FRACTION, DUPLICATE, OUTSIDE = 1, 2, 4, 8, 16
UNKNOWN, GAP, REPEATED, MISPLACED = 1, 2, 3, 4
_LARGEST = 1e200

# The genes of a cell are sorted by keys, ascending: 48 bits of value, reversed, above 16 bits of token.
# Value: float64 without its sign, with 7 of 11 exponent bits (2^-64 to 2^64) and 41 of 52 mantissa bits, rounded.
_ROUND = np.uint64(1 << 10)
_DROPPED_BITS = np.uint64(11)
_LOWEST = np.uint64((1023 - 64) << 41)
_HIGHEST = np.uint64((1 << 48) - 1)
_TOKEN_BITS = np.uint64(16)
_TOKEN = np.uint64(0xFFFF)

_DIGIT_BITS = 10
_RADIX = 1 << _DIGIT_BITS
_DIGIT = np.uint64(_RADIX - 1)
_MOVES_PER_KEY = 8


@intrinsic
def _bits(typing, x):
    """The 64 bits of a float64 as an unsigned integer."""
    return types.uint64(types.float64), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(64))


@njit(nogil=True, cache=True)
def inspect_rows(indptr, indices, data, token, seen, n_genes, totals, mapped):
    """Count distinct tokens and sum values per row; return flags for unusual values, and the largest value.

    `seen` has an element for each token, initially no row number; it detects genes of a row that share a token. The pass ends at a
    column index that is out of bounds for `token`, before it is used.
    """
    flags = 0
    n_columns = np.uint64(len(token))
    peak = 0.0
    for i in range(len(indptr) - 1):
        n = 0
        total = 0.0
        of_vocabulary = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            x = np.float64(data[p])
            if not (0.0 <= x <= _LARGEST):
                flags |= NEGATIVE if x < 0.0 else NOT_FINITE
            if abs(x - np.rint(x)) > 1e-3:
                flags |= FRACTION
            if x > peak:
                peak = x
            total += x
            j = np.uint64(indices[p])  # a negative index becomes a large one
            if j >= n_columns:
                return flags | OUTSIDE, peak
            t = token[j]
            if t >= 0 and x > 0.0:
                of_vocabulary += x
                if seen[t] == i:
                    flags |= DUPLICATE
                else:
                    seen[t] = i
                    n += 1
        n_genes[i] = n
        totals[i] = total
        mapped[i] = of_vocabulary
    return flags, peak


@njit(nogil=True, cache=True)
def sum_by_token(indptr, indices, data, token, n_tokens, new_indptr, new_indices, new_data):
    """Sum the values of each row that share a token; `new_indices` are tokens, in the order of their first value in the row.

    The rounding error of each sum is carried along (Knuth's two-sum), so that the sum does not depend on the order of the values.
    """
    high = np.zeros(n_tokens)
    low = np.zeros(n_tokens)
    n = 0
    new_indptr[0] = 0
    for i in range(len(indptr) - 1):
        first = n
        for p in range(indptr[i], indptr[i + 1]):
            t = token[indices[p]]
            x = np.float64(data[p])
            if t < 0 or not x > 0.0:
                continue
            if high[t] == 0.0:
                new_indices[n] = t
                n += 1
            total = high[t] + x
            added = total - high[t]
            low[t] += (high[t] - (total - added)) + (x - added)
            high[t] = total
        for q in range(first, n):
            t = new_indices[q]
            new_data[q] = high[t] + low[t]
            high[t] = low[t] = 0.0
        new_indptr[i + 1] = n


@njit(nogil=True, cache=True)
def rank_rows(indptr, indices, data, token, weight, first, limit, eos, tokens, n_genes):
    """Write the tokens of each row in the order of value times weight to `tokens`, from column `first`.

    At most `limit` tokens are written, followed by `eos` unless that is negative. `n_genes` is set to their number, or to -1 for rows
    with values out of the range of keys, which are left to the caller.
    """
    longest = 0
    for i in range(len(indptr) - 1):
        longest = max(longest, indptr[i + 1] - indptr[i])
    keys = np.empty(longest + 1, np.uint64)  # one more for the key of a gene that is not expressed
    other = np.empty(longest + 1, np.uint64)
    count = np.empty((2, _RADIX), np.uint32)
    for i in range(len(indptr) - 1):
        n, fits = _pack(indptr[i], indptr[i + 1], indices, data, token, weight, keys)
        if not fits:
            n_genes[i] = -1
            continue
        ordered = _sort(keys, other, n, count)
        n = min(n, limit)
        for r in range(n):
            tokens[i, first + r] = np.uint16(ordered[r] & _TOKEN)
        if eos >= 0:
            tokens[i, first + n] = eos
        n_genes[i] = n


@njit(nogil=True, cache=True)
def _pack(start, stop, indices, data, token, weight, keys):
    """Make the keys of one row; return their number, and whether all values are in range.

    Genes without a token and explicit zeros are skipped without a branch: their key is written and overwritten by the next one.
    """
    n = 0
    outside = np.uint64(0)
    for p in range(start, stop):
        j = indices[p]
        t = token[j]
        x = np.float64(data[p])
        value = ((_bits(x * weight[j]) + _ROUND) >> _DROPPED_BITS) - _LOWEST
        keys[n] = ((_HIGHEST - value) << _TOKEN_BITS) | (np.uint64(t) & _TOKEN)
        expressed = (t >= 0) & (x > 0.0)
        outside |= value & (np.uint64(0) - np.uint64(expressed))
        n += np.int64(expressed)
    return n, outside <= _HIGHEST


@njit(nogil=True, cache=True)
def _sort(keys, other, n, count):
    """Sort the first `n` of `keys`; return the array with the result, `keys` or `other`.

    Two radix passes over the 20 highest bits in which the keys differ leave little to the insertion sort that follows. If they leave
    much, as for cells whose values are mostly ties, radix passes over all bits follow.
    """
    if n == 0:
        return keys
    low = high = keys[0]
    for r in range(n):
        low = min(low, keys[r])
        high = max(high, keys[r])
    n_bits = 0
    while n_bits < 64 and (high - low) >> np.uint64(n_bits) > np.uint64(0):
        n_bits += 1
    shift = max(0, n_bits - 2 * _DIGIT_BITS)
    _count(keys, n, low, shift, count)
    _move(keys, other, n, low, shift, count[0])
    _move(other, keys, n, low, shift + _DIGIT_BITS, count[1])
    if shift == 0 or _insert(keys, n):
        return keys
    source, target = keys, other
    for lowest_bit in range(0, n_bits, _DIGIT_BITS):
        _count(source, n, low, lowest_bit, count)
        _move(source, target, n, low, lowest_bit, count[0])
        source, target = target, source
    return source


@njit(nogil=True, cache=True)
def _count(keys, n, low, shift, count):
    """Start positions of each value of a digit of key - low, and of the next digit, by their counts."""
    shift = np.uint64(shift)
    count[:] = 0
    for r in range(n):
        digits = (keys[r] - low) >> shift
        count[0, digits & _DIGIT] += np.uint32(1)
        count[1, (digits >> np.uint64(_DIGIT_BITS)) & _DIGIT] += np.uint32(1)
    for d in range(2):
        start = np.uint32(0)
        for digit in range(_RADIX):
            n_keys = count[d, digit]
            count[d, digit] = start
            start += n_keys


@njit(nogil=True, cache=True)
def _move(source, target, n, low, shift, start):
    """Sort by one digit of key - low, stably."""
    shift = np.uint64(shift)
    for r in range(n):
        digit = ((source[r] - low) >> shift) & _DIGIT
        target[start[digit]] = source[r]
        start[digit] += np.uint32(1)


@njit(nogil=True, cache=True)
def _insert(keys, n):
    """Insertion sort; stop and return False after more than `_MOVES_PER_KEY` moves per key."""
    moves = 0
    for r in range(1, n):
        key = keys[r]
        s = r
        while s > 0 and keys[s - 1] > key:
            keys[s] = keys[s - 1]
            s -= 1
        keys[s] = key
        moves += r - s
        if moves > _MOVES_PER_KEY * n:
            return False
    return True


@njit(nogil=True, cache=True)
def look_up(indptr, indices, data, token, scale, tokens, first, n_genes, counts):
    """Write the value of each token's gene, times the row's scale, to `counts`."""
    value_of = np.empty(2**16, np.float64)
    for i in range(len(indptr) - 1):
        for p in range(indptr[i], indptr[i + 1]):
            t = token[indices[p]]
            if t >= 0 and data[p] > 0:
                value_of[t] = np.float64(data[p]) * scale[i]
        for r in range(n_genes[i]):
            counts[i, first + r] = value_of[tokens[i, first + r]]


@njit(nogil=True, cache=True)
def check_tokens(tokens, n_tokens, n_special, lengths):
    """Count the tokens of each row; return the first invalid row and its defect, or 0 and 0.

    With three special tokens or four, a row begins with the third, and with four it ends with the fourth, or is empty; with two, it has none.
    """
    seen = np.full(n_tokens, -1, np.int64)
    for i in range(tokens.shape[0]):
        n = 0
        while n < tokens.shape[1] and tokens[i, n] != 0:
            n += 1
        lengths[i] = n
        is_gap = False
        for p in range(n, tokens.shape[1]):
            is_gap |= tokens[i, p] != 0
        if is_gap:
            return i, GAP
        first, last = 0, n
        if n_special > 2:
            if n > 0 and tokens[i, 0] != 2:
                return i, MISPLACED
            first = 1
        if n_special == 4:
            if n > 0 and (n < 2 or tokens[i, n - 1] != 3):
                return i, MISPLACED
            last = n - 1
        for p in range(first, last):
            t = np.int64(tokens[i, p])
            if t < n_special:
                return i, MISPLACED if t >= 0 else UNKNOWN
            if t >= n_tokens:
                return i, UNKNOWN
            if seen[t] == i:
                return i, REPEATED
            seen[t] = i
    return 0, 0
