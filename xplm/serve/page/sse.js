// Server-sent events, as far as the server writes them: "data: JSON", an empty line, and "data: [DONE]" at the end.

const LONGEST = 1 << 24;

/** The objects of a stream of bytes, one after another; throws if the stream breaks off before [DONE]. */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    while (true) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
      if (done) throw new Error("The connection ended before the reply did.");
      if (rest.length > LONGEST) throw new Error("The server sent a line without an end.");
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
