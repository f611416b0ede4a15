"""A kernel becomes machine code as a whole, once.

numba optimises every function that it compiles, turns it into machine code, and does both again inside each function
that it is linked into: five times for the body of a `prange`. Only a kernel is ever called from Python. So what another
function asks for stays LLVM's representation; a kernel and all that it is made of are optimised and turned into machine
code together, when the kernel is about to be called.

The functions of this package have a target of their own for that; others' are compiled as ever, and may call these. A
part cannot do what takes machine code of its own, or its environment: call itself, print, raise with arguments, stand
in a tuple of functions. What was made as a part is made again when Python calls it.
"""

from collections.abc import Callable
from typing import Any

from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.cpu import CPUContext
from numba.core.descriptors import TargetDescriptor
from numba.core.registry import cpu_target
from numba.core.sigutils import normalize_signature


class _Library(JITCodeLibrary):
    """A function and what it calls: linked when it is finalized, machine code when its address is asked for."""

    is_machine_code = False

    def _optimize_final_module(self) -> None:
        """Not now: numba calls this when all is linked."""

    def _finalize_final_module(self) -> None:
        """Not now either, but for machine code from the disk."""
        self._finalized = True
        if self._object_caching_enabled and self._compiled_object is not None:
            self.is_machine_code = True
            super()._finalize_final_module()

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        if not self.is_machine_code:
            self.is_machine_code = True
            super()._optimize_final_module()
            self._final_module.verify()
            super()._finalize_final_module()
        return super().get_pointer_to_function(name)

    def is_callable(self, fndesc: Any) -> bool:
        """Whether Python can call it, once it is machine code."""
        self._ensure_finalized()
        name = fndesc.llvm_cpython_wrapper_name
        return any(function.name == name for function in self.get_defined_functions())

    def serialize_using_object_code(self) -> tuple[str, str, Any]:
        self._ensure_finalized()
        if self.is_machine_code:
            return super().serialize_using_object_code()
        return self.serialize_using_bitcode()


class _Codegen(JITCPUCodegen):
    _library_class = _Library

    def set_env(self, env_name: str, env: Any) -> None:
        if self._engine.is_symbol_defined(env_name):  # of machine code alone
            super().set_env(env_name, env)


class _Context(CPUContext):
    """numba's, with machine code of its own. `kernel`: module and name of what is made for Python to call."""

    kernel: tuple[str, str] | None = None

    @classmethod
    def like(cls, context: CPUContext) -> "_Context":
        """A context that knows what another does, and what that is yet to learn."""
        own = context.subtarget(_internal_codegen=_Codegen("xplm_numpy"))
        own.__class__ = cls
        return own

    def _is_asked_for(self, fndesc: Any) -> bool:
        return (fndesc.modname, fndesc.qualname) == self.kernel

    def create_cpython_wrapper(self, library: Any, fndesc: Any, *rest: Any, **options: Any) -> None:
        if self._is_asked_for(fndesc):
            super().create_cpython_wrapper(library, fndesc, *rest, **options)

    def create_cfunc_wrapper(self, *_: Any) -> None:
        """Functions of this package are not passed to others as arguments."""

    def get_executable(self, library: Any, fndesc: Any, env: Any) -> Any:
        if library.is_machine_code or (self._is_asked_for(fndesc) and library.is_callable(fndesc)):
            return super().get_executable(library, fndesc, env)
        return object()  # nobody calls it; numba tells by it what to link


class _Target(TargetDescriptor):
    options = cpu_target.options
    typing_context = cpu_target.typing_context
    target_context = _Context.like(cpu_target.target_context)


_TARGET = _Target("cpu")


def adopt(dispatcher: Any) -> None:
    """Have a function of numba's compiled as a part of kernels, and as a kernel where Python calls it."""
    dispatcher.targetdescr = dispatcher._compiler.targetdescr = _TARGET
    dispatcher.targetctx = _TARGET.target_context
    compile_or_load = dispatcher.compile

    def add_overload(result: Any) -> None:
        arguments = tuple(result.signature.args)
        dispatcher.overloads[arguments] = result
        if result.library.is_machine_code:
            dispatcher._insert([a._code for a in arguments], result.entry_point, result.objectmode)

    dispatcher.add_overload = add_overload
    dispatcher.compile = lambda signature: _compile(dispatcher, compile_or_load, signature)


def _compile(dispatcher: Any, compile_or_load: Callable[..., Any], signature: Any) -> Any:
    """What Python, or a caller that is being compiled, is to call. The compiler's lock is held."""
    context, function = dispatcher.targetctx, dispatcher.py_func
    if context.kernel is not None:  # a part of it
        return compile_or_load(signature)

    context.kernel = function.__module__, function.__qualname__
    try:
        compile_or_load(signature)
        arguments = tuple(normalize_signature(signature)[0])
        if not dispatcher.overloads[arguments].library.is_machine_code:  # it was made as a part
            del dispatcher.overloads[arguments]
            dispatcher.add_overload(dispatcher._compiler.compile(arguments, None))
        return dispatcher.overloads[arguments].entry_point
    finally:
        context.kernel = None
