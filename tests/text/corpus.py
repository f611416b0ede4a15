"""Text that tokenizers stumble over."""

CORPUS = [
    "",
    " ",
    "\n",
    "Hello, world!",
    "  leading, trailing  ",
    "tabs\tand\t\ttabs, \r\n line ends\n\n\n  then   spaces",
    "I'll say it's what they've done; DON'T, I'D, we'Re",
    "In 1984, 3.14159 and 1,000,000; 12 apples;   7 more, x2y3",
    "٣ خطوات: مرحبا بالعالم، السلام عليكم ١٢٣",
    "你好，世界！这是第3章。日本語のテキストと한국어 텍스트",
    "emoji 👍🏽 👨\u200d👩\u200d👧\u200d👦 🇨🇭 ❤️ and ½ ² Ⅷ ³",
    "naïve café — e\u0301 o\u0308 ﬁ “quotes” …",
    "def f(x: int) -> str:\n    if x != 0:\n\t\treturn f'{x:03d}'  # 0x1F\n    return \"\"\n",
    '#include <stdio.h>\nint main(void) { return a[i] += b->c * 2.5e-3; }\n{"k": [1, 2]}',
    "नमस्ते दुनिया 123 สวัสดีชาวโลก שלום עולם",
    "zero\u200bwidth\u00a0nbsp\u3000wide\u2028line\ufeffbom\u0000nul\u001besc",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|><|im_start|>assistant\n",
    "<|im_end|><|im_end|> <|im_end |> <|im_",
    "https://example.org/a_b?c=1&d=%20#e ~user/.bashrc $PATH `ls -la | wc`",
    "a" * 100 + " " * 40 + "!" * 20,
]
