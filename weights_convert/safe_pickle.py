"""A pickle reader that knows the tensors and plain containers of PyTorch, and nothing else.

A pickle is a program for a small stack machine. This is such a machine, with the few instructions
that state dictionaries are made of. It calls nothing but the inert stand-ins of `torch_objects`,
goes down into no object that it has made (nothing is hashed, compared or printed but texts and
small numbers), and does a bounded amount of work: whatever a file holds, it is read or refused
within seconds, in memory that is small beside the limit of `_WORK`.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxplain.weights_convert.errors import CheckpointError, UnsafeCheckpointError
from jaxplain.weights_convert.torch_objects import (
    KNOWN,
    ORDERED_DICT,
    Known,
    StateDict,
    Storage,
    Tensor,
    storage_of,
)

#: Units of work in one pickle: an instruction is one, 16 bytes of text or an item that is copied
#: are one more, a call is `_CALL`. The largest checkpoints in use need a tenth of it.
_WORK = 1_500_000
_CALL = 16
_LONGEST_LINE = 512
_LONGEST_INT = 16  # bytes; whatever counts something has 8 at the most
_LARGEST_KEY = 1 << 60  # beyond, different numbers have the same hash

_STOP = ord(".")
_CODE = b"io\x81\x92\x82\x83\x84P"  # instructions that make objects of other kinds


class _Mark:
    """Lies on the stack where a sequence begins."""


_MARK = _Mark()


class _OtherKey:
    """Stands in a dictionary for a key that is neither a text nor a number: no name of a tensor."""


def load(data: np.ndarray | bytes, at: int = 0, work: int = _WORK) -> tuple[Any, int]:
    """Reads one pickle that begins at ``data[at]``, by at most so much ``work``.

    Returns:
        the object, and the place behind the pickle.

    Raises:
        UnsafeCheckpointError: it names a global that is not a tensor or a plain container.
        CheckpointError: it is cut short or damaged, or takes more work than any checkpoint.
    """
    machine = _Machine(memoryview(data), at, work)
    try:
        return machine.run(), machine.at
    # What the instructions of a damaged pickle come to: places beyond the end, an empty stack,
    # texts that are no UTF-8, numbers that are none.
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _damaged() from error


def _damaged() -> CheckpointError:
    return CheckpointError("its pickle is cut short or damaged")


def _too_much() -> CheckpointError:
    return CheckpointError("its pickle holds far more objects than any checkpoint")


class _Machine:
    """The stack machine; ``at`` is the place of the next instruction."""

    def __init__(self, data: memoryview, at: int, work: int):
        self.data, self.at, self.work = data, at, work
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.instructions = self._instructions()

    def run(self) -> Any:
        data, instructions = self.data, self.instructions
        while True:
            op = data[self.at]
            self.at += 1
            self.work -= 1
            if self.work < 0:
                raise _too_much()
            if op == _STOP:
                self._need(1)
                return self.stack.pop()
            instructions[op]()

    # ------------------------------------------------------------ what it is given

    def _spend(self, work: int) -> None:
        self.work -= work
        if self.work < 0:
            raise _too_much()

    def _take(self, size: int) -> bytes:
        if size < 0 or size > len(self.data) - self.at:
            raise _damaged()
        self._spend(size >> 4)
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def _number(self, form: str) -> Any:
        (number,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return number

    def _line(self) -> str:
        text = bytes(self.data[self.at : self.at + _LONGEST_LINE])
        size = text.index(b"\n")
        self.at += size + 1
        return text[:size].decode("utf-8")

    def _need(self, count: int) -> None:
        """Makes sure that so many objects lie on the stack, and no mark among them."""
        if len(self.stack) < count or _MARK in self.stack[-count:]:
            raise _damaged()

    def _top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise _damaged()
        return self.stack[-1]

    def _sequence(self) -> list[Any]:
        """Takes what lies above the last mark."""
        stack, begin = self.stack, len(self.stack) - 1
        while stack[begin] is not _MARK:  # an IndexError where there is none
            begin -= 1
            if begin < 0:
                raise _damaged()
        items = stack[begin + 1 :]
        del stack[begin:]
        self._spend(len(items))
        return items

    # ------------------------------------------------------------ instructions

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _push_new(self, kind: type) -> None:
        self.stack.append(kind())

    def _push_number(self, form: str) -> None:
        self.stack.append(self._number(form))

    def _push_text(self, form: str) -> None:
        self.stack.append(self._take(self._number(form)).decode("utf-8"))

    def _push_bytes(self, form: str) -> None:
        self.stack.append(self._take(self._number(form)))

    def _push_int(self, form: str) -> None:
        size = self._number(form)
        if not 0 <= size <= _LONGEST_INT:
            raise CheckpointError("its pickle holds an impossibly large number")
        self.stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _get(self, form: str) -> None:
        self.stack.append(self.memo[self._number(form)])

    def _put(self, form: str) -> None:
        self.memo[self._number(form)] = self._top()

    def _tuple_of(self, count: int) -> None:
        self._need(count)
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _unknown(self) -> None:
        raise _damaged()

    def _code(self) -> None:
        raise UnsafeCheckpointError(
            "it makes objects that are neither tensors nor plain containers; save the "
            "state_dict() alone"
        )

    def _pop(self) -> None:
        self.stack.pop()

    def _pop_mark(self) -> None:
        self._sequence()

    def _dup(self) -> None:
        self.stack.append(self._top())

    def _get_line(self) -> None:
        self.stack.append(self.memo[int(self._line())])

    def _put_line(self) -> None:
        self.memo[int(self._line())] = self._top()

    def _memoize(self) -> None:
        self.memo[len(self.memo)] = self._top()

    def _int_line(self) -> None:
        text = self._line()
        number = {"00": False, "01": True}.get(text)
        if number is None:
            number = int(text.removesuffix("L")[: 3 * _LONGEST_INT])
        self.stack.append(number)

    def _float_line(self) -> None:
        self.stack.append(float(self._line()))

    def _text_line(self) -> None:
        text = self._line()
        if "\\" in text:  # escapes, which no name of a tensor has
            raise _damaged()
        self.stack.append(text.strip("'\""))

    def _tuple(self) -> None:
        self.stack.append(tuple(self._sequence()))

    def _list(self) -> None:
        self.stack.append(self._sequence())

    def _dict(self) -> None:
        self.stack.append(self._filled({}, self._sequence()))

    def _append(self) -> None:
        self._need(2)
        self._extend([self.stack.pop()])

    def _extend_by_sequence(self) -> None:
        self._extend(self._sequence())

    def _extend(self, items: list[Any]) -> None:
        if type(self._top()) is not list:
            raise _damaged()
        self.stack[-1].extend(items)

    def _set_item(self) -> None:
        self._need(3)
        pair = self.stack[-2:]
        del self.stack[-2:]
        self._fill_top(pair)

    def _set_items(self) -> None:
        self._fill_top(self._sequence())

    def _fill_top(self, items: list[Any]) -> None:
        if not isinstance(self._top(), dict):
            raise _damaged()
        self._filled(self.stack[-1], items)

    def _filled(self, found: dict, items: list[Any]) -> dict:
        if len(items) % 2:
            raise _damaged()
        for key, value in zip(items[::2], items[1::2], strict=True):
            plain = type(key) is str or (type(key) is int and abs(key) < _LARGEST_KEY)
            found[key if plain else _OtherKey()] = value
        return found

    def _global(self) -> None:
        self._known(self._line(), self._line())

    def _stack_global(self) -> None:
        self._need(2)
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise _damaged()
        self._known(module, name)

    def _known(self, module: str, name: str) -> None:
        known = KNOWN.get((module, name))
        if known is None:
            raise UnsafeCheckpointError(
                f"it asks for {module:.80}.{name:.80}, which is neither a tensor nor a plain "
                "container; save the state_dict() alone"
            )
        self.stack.append(known)

    def _persistent_id(self) -> None:
        self._need(1)
        self._spend(_CALL)
        self.stack.append(storage_of(self.stack.pop()))

    def _call(self) -> None:
        self._need(2)
        self._spend(_CALL)
        arguments, known = self.stack.pop(), self.stack.pop()
        if not isinstance(known, Known) or known.call is None:
            raise UnsafeCheckpointError("it tries to call a type name")
        if type(arguments) is not tuple or len(arguments) > 9:
            raise _damaged()
        if known is not ORDERED_DICT:
            try:
                self.stack.append(known.call(*arguments))
            except TypeError as error:  # another number of arguments
                raise _damaged() from error
            return
        pairs = arguments[0] if arguments else []
        if type(pairs) is not list or len(arguments) > 1:
            raise _damaged()
        self._spend(2 * len(pairs))
        if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
            raise _damaged()
        self.stack.append(self._filled(StateDict(), [item for pair in pairs for item in pair]))

    def _build(self) -> None:
        self._need(2)
        self.stack.pop()
        if isinstance(self._top(), (Known, Storage, Tensor)):
            raise UnsafeCheckpointError("it tries to alter one of the reader's own objects")
        if not isinstance(self._top(), StateDict):
            raise _damaged()
        # What torch hangs on a state dictionary besides its tensors is dropped.

    def _instructions(self) -> list[Callable[[], Any]]:
        """What each of the 256 bytes does."""
        steps: list[Callable[[], Any]] = [self._unknown] * 256
        simple = {
            b"0": self._pop,
            b"1": self._pop_mark,
            b"2": self._dup,
            b"g": self._get_line,
            b"p": self._put_line,
            b"\x94": self._memoize,
            b"IL": self._int_line,
            b"F": self._float_line,
            b"VS": self._text_line,
            b"t": self._tuple,
            b"l\x91": self._list,
            b"d": self._dict,
            b"a": self._append,
            b"e\x90": self._extend_by_sequence,
            b"s": self._set_item,
            b"u": self._set_items,
            b"c": self._global,
            b"\x93": self._stack_global,
            b"Q": self._persistent_id,
            b"R": self._call,
            b"b": self._build,
            _CODE: self._code,
        }
        with_argument = {
            self._push: {b"(": _MARK, b"N": None, b"\x88": True, b"\x89": False, b")": ()},
            self._push_new: {b"]": list, b"}": dict, b"\x8f": list},  # items of a set need a hash
            self._push_number: {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d"},
            # How many bytes follow: the format of the number that says so.
            self._push_text: {b"X": "<I", b"\x8c": "<B", b"\x8d": "<Q", b"T": "<i", b"U": "<B"},
            self._push_bytes: {b"B": "<I", b"C": "<B", b"\x8e": "<Q"},
            self._push_int: {b"\x8a": "<B", b"\x8b": "<i"},
            self._get: {b"h": "<B", b"j": "<I"},
            self._put: {b"q": "<B", b"r": "<I"},
            self._tuple_of: {b"\x85": 1, b"\x86": 2, b"\x87": 3},
            self._take: {b"\x80": 1, b"\x95": 8},  # the protocol's number, the size of a frame
        }
        for ops, step in simple.items():
            for op in ops:
                steps[op] = step
        for step, arguments in with_argument.items():
            for op, argument in arguments.items():
                steps[op[0]] = functools.partial(step, argument)
        return steps
