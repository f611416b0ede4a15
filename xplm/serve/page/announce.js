// A reply read aloud by a screen reader: whole sentences go to a live region, not every token.

const SENTENCE = /[\s\S]*[.!?:\n](?=\s)/;

/** Says a growing text sentence by sentence. */
export class Announcer {
  #region;
  #said = 0;

  constructor(region) {
    this.#region = region;
  }

  begin() {
    this.#region.replaceChildren();
    this.#said = 0;
  }

  grow(text) {
    const match = SENTENCE.exec(text.slice(this.#said));
    if (match) this.#say(match[0]);
  }

  end(text, remark) {
    this.#say(text.slice(this.#said));
    if (remark) this.say_once(remark);
  }

  say_once(text) {
    const line = document.createElement("p");
    line.textContent = text;
    this.#region.append(line);
  }

  #say(text) {
    this.#said += text.length;
    if (text.trim()) this.say_once(text.trim());
  }
}
