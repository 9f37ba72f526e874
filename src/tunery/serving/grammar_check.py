"""`python -m tunery.serving.grammar_check`: compiles the grammar on standard input and prints what is wrong with it.

A schema comes from anybody, and some cost the compiler minutes, gigabytes or its stack (multipleOf of a large prime,
twenty patterns that must all hold, a chain of a thousand $ref): its limits don't cover them. So each is tried here
first, in a process that may take so much and no more. A vocabulary of single bytes does for that and is there at once.
"""

import os
import resource
import sys
import threading

import llguidance

CPU_SECONDS = 3
MEMORY_BYTES = 1024**3
STACK_BYTES = 4 * 1024**2
"""Half of what the engine's threads have: what fits here fits there."""


def limits() -> llguidance.LLParserLimits:
    """Of compiling, here and in the engine, and of each step of an answer."""
    return llguidance.LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_lexer_states=20_000,
        max_grammar_size=200_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


class _Bytes:
    """A vocabulary of the 256 bytes and an end, in the shape that llguidance asks for."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def fault(tokenizer: llguidance.LLTokenizer, lark: str) -> str:
    """What is wrong with a grammar; empty if nothing is."""
    matcher = llguidance.LLMatcher(tokenizer, lark, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.deep_copy().compute_bitmask()
        matcher.compute_bitmask()
    return matcher.get_error()


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    lark = sys.stdin.read()
    wrapper = llguidance.TokenizerWrapper(_Bytes())
    tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=257, eos_token=_Bytes.eos_token_id, slices=[])
    threading.stack_size(STACK_BYTES)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(fault(tokenizer, lark)))
    thread.start()
    thread.join()
    print(found[0])  # nothing is found if the compiler broke: then this breaks too


if __name__ == "__main__":
    _main()
