"""Everything private to numba and llvmlite: names that a release may rename.

All of it is an optimisation. `xplm_numpy.jit` imports this file and calls it behind one guard; where a name is gone, or
does not do what it did, numba's public interface compiles the same kernels. Names are looked up at import as far as
possible, so that most changes show before anything is compiled.

A kernel becomes machine code as a whole, once. numba optimises every function that it compiles, turns it into machine
code, and does both again inside each function that it is linked into: five times for the body of a `prange`. Only a
kernel is called from Python. So a function that another one calls stays LLVM's representation; a kernel and all its
parts are optimised and turned into machine code together, when the kernel is about to be called. It also fixes the
order of sums: LLVM inlines small functions only, and would call a large one as another process compiled it.

This package's functions have a target of their own for that; others' are compiled as usual, and may call these. A part
cannot do what takes machine code of its own, or its environment: call itself, print, raise with arguments, stand in a
tuple of functions. A function that was compiled as a part is compiled again when Python calls it.

Elsewhere the package uses numba's extension interface, which is public: `intrinsic`, and in it `compile_internal`,
`make_array`, `make_tuple`, `get_dummy_value` and `create_struct_proxy`. The versions tested have all of them.
"""

import pickle
from collections.abc import Callable
from copy import copy
from ctypes import CFUNCTYPE, c_int
from functools import cache
from importlib import import_module
from typing import Any

import llvmlite
import numba
from llvmlite import binding
from numba.core import cgutils, types
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu import CPUContext
from numba.core.descriptors import TargetDescriptor
from numba.core.registry import cpu_target
from numba.core.runtime._nrt_python import c_helpers
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature
from numba.misc.appdirs import AppDirs

from xplm_numpy.announce import note_compiling
from xplm_numpy.border import NumbaError, border
from xplm_numpy.kernel_cache import KernelStore, file_name

ALIGNMENT = 64
"""Bytes: a cache line."""

VERSIONS = numba.__version__, llvmlite.__version__

LOCK = global_compiler_lock
"""Held while numba compiles, in any thread; the thread that has it may take it again."""

_REDUCE, _REBUILD = CompileResult._reduce, CompileResult._rebuild


def replaces(base: type) -> Callable[[Any], Any]:
    """Mark a method that numba calls. Fails at import where the base class no longer has one of that name."""

    def check(method: Any) -> Any:
        getattr(base, method.__name__)
        return method

    return check


def put(owner: Any, name: str, value: Any) -> None:
    """Set an attribute that numba reads. Fails where numba does not have it."""
    getattr(owner, name)
    setattr(owner, name, value)


class _Library(JITCodeLibrary):
    """A function and its callees: linked when finalized, machine code when its address is asked for."""

    is_machine_code = False

    @replaces(JITCodeLibrary)
    def _optimize_final_module(self) -> None:
        """Not yet: numba calls this after linking."""

    @replaces(JITCodeLibrary)
    def _finalize_final_module(self) -> None:
        """Not yet, except for machine code from the disk."""
        put(self, "_finalized", True)
        if self._object_caching_enabled and self._compiled_object is not None:
            self.is_machine_code = True
            super()._finalize_final_module()

    @replaces(JITCodeLibrary)
    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        if not self.is_machine_code:
            self.is_machine_code = True
            super()._optimize_final_module()
            self._final_module.verify()
            super()._finalize_final_module()
        return super().get_pointer_to_function(name)

    def is_callable(self, fndesc: Any) -> bool:
        """True where Python can call the function once it is machine code."""
        self._ensure_finalized()
        name = fndesc.llvm_cpython_wrapper_name
        return any(function.name == name for function in self.get_defined_functions())

    @replaces(JITCodeLibrary)
    def serialize_using_object_code(self) -> tuple[str, str, Any]:
        self._ensure_finalized()
        if self.is_machine_code:
            return super().serialize_using_object_code()
        return self.serialize_using_bitcode()


class _Codegen(JITCPUCodegen):
    _library_class = _Library

    @replaces(JITCPUCodegen)
    def set_env(self, env_name: str, env: Any) -> None:
        if self._engine.is_symbol_defined(env_name):  # of machine code alone
            super().set_env(env_name, env)


class _Context(CPUContext):
    """numba's, with machine code of its own. `kernel`: module and name of the function that Python is to call."""

    kernel: tuple[str, str] | None = None

    @classmethod
    def like(cls, context: CPUContext) -> "_Context":
        """A context that knows what another does, and what that is yet to learn."""
        own = context.subtarget(_internal_codegen=_Codegen("xplm_numpy"))
        own.__class__ = cls
        return own

    def _is_kernel(self, fndesc: Any) -> bool:
        return (fndesc.modname, fndesc.qualname) == self.kernel

    @replaces(CPUContext)
    def create_cpython_wrapper(self, library: Any, fndesc: Any, *rest: Any, **options: Any) -> None:
        if self._is_kernel(fndesc):
            super().create_cpython_wrapper(library, fndesc, *rest, **options)

    @replaces(CPUContext)
    def create_cfunc_wrapper(self, *_: Any) -> None:
        """Functions of this package are not passed to others as arguments."""

    @replaces(CPUContext)
    def get_executable(self, library: Any, fndesc: Any, env: Any) -> Any:
        if library.is_machine_code or (self._is_kernel(fndesc) and library.is_callable(fndesc)):
            return super().get_executable(library, fndesc, env)
        return object()  # never called; numba identifies by it what to link


class _Target(TargetDescriptor):
    options = cpu_target.options
    typing_context = cpu_target.typing_context
    target_context = _Context.like(cpu_target.target_context)


_TARGET = _Target("cpu")


class KernelCache(NullCache):
    """One function's compiled forms, in a store.

    Of processes that lack the same kernel one compiles it, behind a lock, and the others wait for its file. A part is
    compiled by each process that needs it.
    """

    def __init__(
        self, function: Callable[..., Any], *, is_kernel: bool, store: KernelStore
    ) -> None:
        """Of a kernel, or of a function that is compiled into kernels."""
        self._function, self._is_kernel, self._store = function, is_kernel, store

    @replaces(NullCache)
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The stored result for a signature; None where this process is to compile it, with a kernel's lock."""
        found = self._load(sig, target_context)
        if found is None and self._is_kernel and self._store.lock(self._file(sig, target_context)):
            found = self._load(sig, target_context)
        if found is None:
            note_compiling(is_stored=self._store.is_writable)
        return found

    @replaces(NullCache)
    def save_overload(self, sig: Any, result: Any) -> None:
        """Store what was compiled."""
        if self._store.folder is not None and not result.library.has_dynamic_globals:
            context = result.target_context
            key = self._key(sig, context)
            self._store.save(self._file(sig, context), key, dumps(_REDUCE(result)))

    def _load(self, sig: Any, target_context: Any) -> Any:
        """Without numba's `refresh`, which only a compiler needs: a third of a second and 30 MB of tables.

        Nor is numba's own runtime compiled, a twentieth of a second and 20 MB: it is part of each stored kernel.
        """
        name = self._file(sig, target_context)
        data = self._store.load(name, self._key(sig, target_context))
        if data is None:
            return None
        _export_runtime()
        try:
            with border():
                return _REBUILD(target_context, *pickle.loads(data))
        except NumbaError as error:
            self._store.drop(name, str(error))
            return None

    def _file(self, sig: Any, target_context: Any) -> str:
        machine = target_context.codegen().magic_tuple()
        return file_name(self._function, f"{sig} {machine}")

    def _key(self, sig: Any, target_context: Any) -> str:
        return f"{self._file(sig, target_context)} {VERSIONS} {self._store.stamp(self._function)}"


@cache
def _export_runtime() -> None:
    """Let kernels find the C part of numba's runtime, by the names that they call it by."""
    for name, address in c_helpers.items():
        binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


def adopt(dispatcher: Any, *, is_kernel: bool, store: KernelStore) -> None:
    """Compile a function of numba's as a part of kernels from now on, and as a kernel where Python calls it."""
    put(dispatcher, "_compiler", copy(dispatcher._compiler))
    put(dispatcher._compiler, "targetdescr", _TARGET)
    put(dispatcher, "targetdescr", _TARGET)
    put(dispatcher, "targetctx", _TARGET.target_context)
    stored = KernelCache(dispatcher.py_func, is_kernel=is_kernel, store=store)
    put(dispatcher, "_cache", stored)
    insert = dispatcher._insert

    def add_overload(result: Any) -> None:
        arguments = tuple(result.signature.args)
        dispatcher.overloads[arguments] = result
        if result.library.is_machine_code:
            insert([a._code for a in arguments], result.entry_point, result.objectmode)

    put(dispatcher, "add_overload", add_overload)


def compile_or_load(dispatcher: Any, signature: Any) -> Any:
    """The entry point for Python, or for a caller that is being compiled. The compiler's lock is held."""
    context, function = dispatcher.targetctx, dispatcher.py_func
    make = type(dispatcher).compile
    if context.kernel is not None:  # a part of it
        return make(dispatcher, signature)

    context.kernel = function.__module__, function.__qualname__
    try:
        make(dispatcher, signature)
        arguments = tuple(normalize_signature(signature)[0])
        if not dispatcher.overloads[arguments].library.is_machine_code:  # it was made as a part
            del dispatcher.overloads[arguments]
            dispatcher.add_overload(dispatcher._compiler.compile(arguments, None))
        return dispatcher.overloads[arguments].entry_point
    finally:
        context.kernel = None


def allocate(context: Any, builder: Any, array: Any, shape: Any, *, is_zero: bool) -> Any:
    """An LLVM value that is a new dense array of numba's type `array`.

    numba compiles `np.empty` anew for each number of dimensions, and `np.zeros` on top of it, as functions of their own
    that check their arguments: a tenth of the time that the kernels of a command take.
    """
    sizes = cgutils.unpack_tuple(builder, shape)
    itemsize = context.get_constant(types.intp, array.dtype.bitwidth // 8)
    n_items, n_bytes = context.get_constant(types.intp, 1), itemsize
    strides: list[Any] = []
    for size in reversed(sizes):
        strides.insert(0, n_bytes)
        n_bytes, n_items = builder.mul(n_bytes, size), builder.mul(n_items, size)

    made = cgutils.create_struct_proxy(array)(context, builder)  # all zero, no parent
    made.meminfo = context.nrt.meminfo_alloc_aligned(builder, n_bytes, ALIGNMENT)
    made.data = builder.bitcast(context.nrt.meminfo_data(builder, made.meminfo), made.data.type)
    if is_zero:
        cgutils.memset(builder, made.data, n_bytes, 0)
    made.nitems, made.itemsize = n_items, itemsize
    made.shape = cgutils.pack_array(builder, sizes, itemsize.type)
    made.strides = cgutils.pack_array(builder, strides, itemsize.type)
    return made._getvalue()


def take_over_openmp(threads: int) -> None:
    """Have numba's OpenMP layer take this process, a forked child, for the one that started it; starts no thread."""
    omppool = import_module("numba.np.ufunc.omppool")  # loaded when its threads start
    CFUNCTYPE(None, c_int)(omppool.launch_threads)(threads)


def user_cache_folder() -> str:
    """numba's folder for this user's kernels, which XDG_CACHE_HOME moves."""
    return AppDirs("numba", appauthor=False).user_cache_dir
