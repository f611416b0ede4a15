"""llama.cpp from the start of its process to its first token, and no further.

    python llama_cpp_first_token.py model.gguf THREADS PROMPT

It imports what that takes and nothing else, because its time and its memory are measured.
"""

import sys

import llama_cpp

path, threads, prompt = sys.argv[1:]
n_threads = int(threads)
llama = llama_cpp.Llama(path, n_threads=n_threads, n_threads_batch=n_threads, verbose=False)
llama.eval(llama.tokenize(prompt.encode(), add_bos=False))
print(llama.sample(temp=0.0))
