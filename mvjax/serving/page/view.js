// Draws an answer: lanes by position above, its text and blocks below, paths side by side. Text is never HTML: it only
// ever becomes the data of text nodes.

export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Set what differs only: a screen reader and the layout are left alone otherwise. */
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The colour of a path: by its number in its block, a little off that of the path around it. */
function colour(segment) {
  const numbers = segment.address.split("/").map((part) => Number(part.split(".")[1]));
  const shift = numbers.slice(0, -1).reduce((sum, number) => sum + number * 5, 0);
  return `var(--path-${((numbers.at(-1) - 1 + shift) % 8) + 1})`;
}

const STATES = { running: "running", waiting: "waits for its paths", ended: "ended" };

/** Lanes by position: the width is the critical path. */
export class LanesView {
  constructor(answer, small = false) {
    this.answer = answer;
    this.element = element("div", small ? "lanes small" : "lanes");
    this.element.setAttribute("role", "img");
    this.bars = [];
    this.joins = [];
  }

  update() {
    const { bars, joins, rows } = this.answer.lanes();
    const ended = this.answer.state === "ended";
    const width = Math.max(this.answer.path, ended ? 1 : 24);
    this.element.style.setProperty("--rows", String(Math.max(rows, 1)));
    this.element.classList.toggle("dense", rows > 8);
    this.element.setAttribute("aria-label", `${rows} lanes over ${this.answer.path} positions`);
    this.pool(this.bars, bars.length, "bar");
    bars.forEach(({ segment, row, from, to }, index) => {
      const bar = this.bars[index];
      bar.dataset.address = segment.address;
      bar.dataset.state = segment.state;
      bar.classList.toggle("cut", segment.cut !== null);
      bar.title = `${segment.address ? `path ${segment.label || segment.address}` : "root"}: positions ${from + 1} to ${to}`;
      bar.style.setProperty("--row", String(row));
      bar.style.setProperty("--from", String(from / width));
      bar.style.setProperty("--long", String((to - from) / width));
      bar.style.setProperty("--c", segment.address ? colour(segment) : "var(--root)");
    });
    this.pool(this.joins, joins.length, "join");
    joins.forEach(({ at, row, rows: high }, index) => {
      const join = this.joins[index];
      join.style.setProperty("--row", String(row));
      join.style.setProperty("--high", String(high));
      join.style.setProperty("--from", String(at / width));
    });
  }

  pool(nodes, count, className) {
    while (nodes.length < count) {
      nodes.push(element("span", className));
      this.element.append(nodes.at(-1));
    }
    while (nodes.length > count) nodes.pop().remove();
  }
}

/** An answer with all of its branches. */
export class AnswerView {
  constructor(answer) {
    this.answer = answer;
    this.nodes = new Map();
    this.element = element("article", "answer");
    this.element.dataset.request = answer.id;
    this.element.setAttribute("aria-label", "Answer");
    this.lanes = new LanesView(answer);
    this.measures = element("p", "measures");
    this.body = element("div", "segment");
    this.body.dataset.address = "";
    this.trouble = element("p", "trouble");
    this.trouble.setAttribute("role", "alert");
    this.trouble.hidden = true;
    this.element.append(this.lanes.element, this.measures, this.body, this.trouble);
  }

  update() {
    const { answer } = this;
    this.element.dataset.state = answer.state;
    this.lanes.update();
    const root = answer.segments.get("");
    if (root) this.fill(this.body, root);
    this.body.classList.toggle("caret", answer.state !== "ended" && (!root || root.state === "running"));
    put(this.measures, this.summary());
    this.measures.classList.toggle("cut", Boolean(root?.cut));
    this.trouble.hidden = !answer.error;
    put(this.trouble, answer.error ?? "");
  }

  /** What has been made, in a line. */
  summary() {
    const { answer } = this;
    if (answer.state === "waiting") return "waiting for its first token";
    const words = [];
    if (answer.tokens) words.push(`${answer.tokens} tokens`);
    words.push(`critical path ${answer.path}`);
    if (answer.tokens) words.push(`# parallel ${answer.degree.toFixed(2)}`);
    if (answer.state === "ended" && answer.reason && answer.reason !== "stop") words.push(`ended: ${answer.reason}`);
    const abandoned = [...answer.segments.values()].flatMap((one) => one.blocks).filter((one) => one.state === "abandoned");
    if (abandoned.length) words.push(`${abandoned.length} abandoned`);
    const cut = [...answer.segments.values()].filter((one) => one.address && one.cut !== null);
    if (cut.length) words.push(`${cut.length} cut`);
    return words.join(" · ");
  }

  fill(place, segment) {
    for (const part of segment.parts) {
      if (part.kind === "block") this.block(place, part);
      else this.text(place, part);
    }
  }

  node(key, make) {
    let found = this.nodes.get(key);
    if (!found) this.nodes.set(key, (found = make()));
    return found;
  }

  text(place, part) {
    const node = this.node(part, () => {
      const made = element(part.kind === "outline" ? "li" : "p", `text ${part.kind}`);
      const parent = part.block && this.nodes.get(part.block);
      if (parent && part.kind === "conclusion") parent.reduce.append(made);
      else if (parent) parent.map.append(made);
      else place.append(made);
      made.append("");
      return made;
    });
    const text = part.kind === "outline" ? part.text.replace(/^\s*[\d.]+:\s*/, "").trim() : part.text.replace(/\s+$/, "");
    if (node.firstChild.data !== text) node.firstChild.data = text;
    node.hidden = !text;
  }

  block(place, block) {
    const made = this.node(block, () => {
      const section = element("section", "block");
      section.dataset.block = String(block.ordinal);
      const map = element("ol", "map");
      const paths = element("div", "paths");
      const reduce = element("div", "reduce");
      const note = element("p", "note");
      section.append(element("h3", "stage", "Map"), map, element("h3", "stage process", "Process"), paths);
      section.append(element("h3", "stage merge", "Reduce"), reduce, note);
      place.append(section);
      return { section, map, paths, reduce, note, append: (...nodes) => section.append(...nodes) };
    });
    made.section.dataset.state = block.state;
    put(made.note, block.state === "abandoned" ? "abandoned: the limits left no room for its paths" : "");
    for (const path of block.paths) this.path(made.paths, path);
    const ended = this.answer.state === "ended";
    const missing = block.state === "open" || block.state === "reduced" ? block.count - block.paths.length : 0;
    const waiting = [...made.paths.querySelectorAll(":scope > .path.to-come")];
    for (const node of waiting.slice(missing)) node.remove();
    for (let index = waiting.length; index < missing; index += 1) {
      const card = element("article", "path to-come");
      card.append(element("p", "path-state", "waits for a free row"));
      made.paths.append(card);
    }
    for (const node of made.paths.querySelectorAll(":scope > .path.to-come")) {
      node.dataset.state = "waiting";
      put(node.firstChild, ended || block.state === "reduced" ? "left out" : "waits for a free row");
    }
  }

  path(place, segment) {
    const card = this.node(segment, () => {
      const made = element("article", "path");
      made.dataset.address = segment.address;
      made.tabIndex = 0;
      made.style.setProperty("--c", colour(segment));
      const head = element("header");
      const body = element("div", "segment");
      head.append(element("span", "path-name"), element("span", "path-state"));
      made.append(head, body);
      place.insertBefore(made, place.querySelector(":scope > .to-come"));
      for (const other of place.querySelectorAll(":scope > .path[data-number]")) {
        if (Number(other.dataset.number) > segment.number) {
          place.insertBefore(made, other);
          break;
        }
      }
      made.dataset.number = String(segment.number);
      return made;
    });
    const [head, body] = card.children;
    card.dataset.state = segment.state;
    card.classList.toggle("cut", segment.cut !== null);
    const name = `path ${segment.label || segment.address.split("/").map((part) => part.split(".")[1]).join(".")}`;
    const state = segment.cut !== null ? `cut: ${segment.cut}` : STATES[segment.state];
    put(head.firstChild, name);
    put(head.lastChild, `${Math.max(segment.last - segment.first + 1, 0)} pos · ${state}`);
    head.lastChild.title = "positions, nested paths included, and what it does";
    card.setAttribute("aria-label", `${name}, ${state}`);
    const atEnd = card.scrollTop + card.clientHeight >= card.scrollHeight - 24;
    this.fill(body, segment);
    body.classList.toggle("caret", segment.state === "running");
    if (atEnd && segment.state !== "ended") card.scrollTop = card.scrollHeight;
  }
}
