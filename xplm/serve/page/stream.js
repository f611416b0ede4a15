// A reply on its way: the request, and the turn that its chunks add up to.

import * as api from "./api.js";
import { from_entry } from "./tokens.js";

const TOP = 6; // five rivals, and the token itself

/** A turn that nothing was answered in yet. */
export function draft_of(user) {
  return { user, assistant: "", reasoning_content: "", finish_reason: null, tokens: [], timings: null };
}

/** Have a message answered; `grow(draft)` after each chunk. The finished turn, as the server keeps it. */
export async function reply(session, draft, keep, sampling, signal, grow) {
  const body = {
    ...sampling, content: draft.user, turns: keep,
    logprobs: true, top_logprobs: TOP, stream_options: { include_usage: true },
  };
  let kept = null;
  for await (const chunk of api.send(session, body, signal)) {
    for (const choice of chunk.choices) {
      draft.assistant += choice.delta.content ?? "";
      draft.reasoning_content += choice.delta.reasoning_content ?? "";
      draft.tokens.push(...(choice.logprobs?.content ?? []).map(from_entry));
    }
    kept = chunk.turn ?? kept;
    grow(draft);
  }
  if (kept === null) throw new Error("The server did not keep the reply.");
  return kept;
}

/** Keep what was said of a reply that was stopped; the conversation as it is then. */
export async function keep_stopped(session, draft, keep, n_turns) {
  if (keep < n_turns) await api.rollback(session, keep);
  const { user, assistant, reasoning_content } = draft;
  return api.append(session, { user, assistant, reasoning_content });
}
