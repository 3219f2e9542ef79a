// An answer while it grows: its branches and where they stand. No DOM here: view.js draws it.
//
// The events are those of `delta.branch` in a chat's stream and of `branch` in /live: {address, event, text, position}.
// "" is the root, "1.2" path 2 of block 1 of the root, "1.2/1.3" path 3 of block 1 of that path.

const TAG = /(<\/?(?:Think|Parallel|Goal|Outline|Path|Conclusion)>\n?)/;

/** A branch. `parts` are what it holds in order: {kind, text}, and blocks {kind: "block", ...}. */
export class Segment {
  constructor(address, first) {
    this.address = address;
    this.first = first;
    this.last = first;
    this.state = "running"; // running, waiting (for the paths of its block), ended
    this.cut = null;
    this.label = "";
    this.parts = [];
    this.kind = "text";
    this.thinking = false;
    this.fresh = true; // the next text begins a part
    this.block = null; // the block that is open
  }

  /** Add text, tags included. A tag comes whole: it is one token. */
  read(text) {
    for (const piece of text.split(TAG)) {
      if (!piece) continue;
      const tag = /^<(\/?)(\w+)>\n?$/.exec(piece);
      if (tag && TAG.test(piece)) this.tag(tag[2], tag[1] === "");
      else this.add(piece);
    }
  }

  add(text) {
    if (this.kind === "label") {
      const at = text.indexOf(":");
      this.label += (at < 0 ? text : text.slice(0, at)).trim();
      if (at < 0) return;
      this.kind = "text";
      this.fresh = true;
      text = text.slice(at + 1).replace(/^ /, "");
    }
    if (this.fresh) text = text.replace(/^\n+/, "");
    if (!text) return;
    if (this.fresh) {
      this.parts.push({ kind: this.kind, text: "", block: this.kind === "text" || this.kind === "think" ? null : this.block });
      this.fresh = false;
    }
    this.parts.at(-1).text += text;
  }

  tag(name, opens) {
    this.fresh = true;
    const body = this.thinking ? "think" : "text";
    if (name === "Think") this.thinking = opens;
    if (name === "Parallel" && opens) {
      this.open();
    } else if (name === "Parallel" && this.block) {
      if (this.block.state === "map") this.block.state = "abandoned";
      this.block = null;
    }
    if (name === "Outline" && opens && this.block) this.block.outlines += 1;
    if (name === "Conclusion" && opens) this.reduce();
    if (name === "Path") this.kind = opens ? "label" : "text";
    else if (opens) this.kind = { Think: "think", Outline: "outline", Conclusion: "conclusion" }[name] ?? "map";
    else this.kind = name === "Parallel" ? body : name === "Think" ? "text" : "map";
  }

  /** Begin a block. */
  open(ordinal = this.blocks.length + 1) {
    this.block = { kind: "block", ordinal, count: 0, paths: [], state: "map", outlines: 0 };
    this.parts.push(this.block);
    return this.block;
  }

  /** The block forks: paths will come. Where texts are withheld it has not been seen to begin. */
  fork(count, ordinal) {
    const block = this.block?.state === "map" ? this.block : this.open(ordinal);
    block.state = "open";
    block.count = count ?? block.outlines;
  }

  /** The block's paths have ended. */
  reduce() {
    if (this.block) this.block.state = "reduced";
  }

  get blocks() {
    return this.parts.filter((part) => part.kind === "block");
  }
}

/** A request and its branches. */
export class Answer {
  constructor(id) {
    this.id = id;
    this.state = "waiting"; // waiting, running, ended
    this.reason = this.error = null;
    this.tokens = 0;
    this.degree = 1;
    this.origin = null; // position before the first token
    this.segments = new Map();
  }

  segment(address, first = 1) {
    let found = this.segments.get(address);
    if (!found) this.segments.set(address, (found = new Segment(address, first)));
    return found;
  }

  /** The segment that an address is a path of, its block's ordinal, and its number there. */
  static above(address) {
    const at = address.lastIndexOf("/");
    const [ordinal, number] = address.slice(at + 1).split(".").map(Number);
    return { parent: address.slice(0, Math.max(at, 0)), ordinal, number };
  }

  apply({ address, event, text, position }) {
    if (this.state === "waiting") this.state = "running";
    // The first text may be of several tokens: where they began is known for certain at the end only (see `began`).
    this.origin ??= position - (event === "text" ? Math.max(1, Math.round(text.length / 4)) : 0);
    const segment = this.segment(address, address ? position : this.origin + 1);
    segment.last = Math.max(segment.last, position);
    if (event === "text") segment.read(text);
    else if (event === "fork") {
      segment.fork();
      segment.state = "waiting";
    } else if (event === "start") this.place(segment);
    else if (event === "end") segment.state = "ended";
    else if (event === "reduce") {
      segment.reduce();
      segment.state = "running";
    }
    if (segment.state !== "ended" && event === "text") segment.state = "running";
  }

  /** Put a path into its block. */
  place(segment) {
    const { parent, ordinal, number } = Answer.above(segment.address);
    const above = this.segment(parent);
    let block = above.blocks.find((one) => one.ordinal === ordinal);
    if (!block) {
      // Texts are withheld: the fork has made a block whose number was not known.
      block = above.block?.paths.length === 0 ? above.block : above.open();
      Object.assign(block, { ordinal, state: "open" });
    }
    if (block.paths.includes(segment)) return;
    segment.number = number;
    block.paths.push(segment);
    block.paths.sort((one, other) => one.number - other.number);
    block.count = Math.max(block.count, number);
  }

  /** As /live has it in a snapshot. */
  static from(request) {
    const answer = new Answer(request.id);
    for (const told of request.segments) {
      const segment = answer.segment(told.address, told.first);
      if (told.address) answer.place(segment);
      told.texts.forEach((text, index) => {
        segment.read(text);
        const block = told.blocks[index];
        if (!block) return;
        segment.fork(block.count, block.ordinal);
        if (block.reduced) segment.reduce();
      });
      Object.assign(segment, { last: told.last, state: told.state, cut: told.cut });
    }
    answer.origin = 0;
    answer.state = request.state;
    answer.progress(request);
    if (request.state === "ended") answer.end(request);
    return answer;
  }

  /** The critical path of the whole answer is known, and so the position where it began. */
  began(path) {
    const root = this.segments.get("");
    if (!root) return;
    this.origin += this.path - path;
    root.first = this.origin + 1;
  }

  progress({ tokens, degree }) {
    this.tokens = tokens;
    this.degree = degree;
    if (this.state === "waiting" && tokens) this.state = "running";
  }

  end({ reason, tokens, degree, cuts = {}, error = null }) {
    this.state = "ended";
    this.reason = reason;
    this.error = error;
    if (tokens !== undefined) this.progress({ tokens, degree });
    for (const segment of this.segments.values()) segment.state = "ended";
    for (const [address, why] of Object.entries(cuts)) if (this.segments.has(address)) this.segments.get(address).cut = why;
  }

  /** Positions that the answer takes so far. */
  get path() {
    if (this.origin === null) return 0;
    return Math.max(0, ...[...this.segments.values()].map((segment) => segment.last - this.origin));
  }

  /** Lanes: each segment's stretches [from, to) of positions with their row; the rows there are; where lanes join. */
  lanes() {
    const bars = [];
    const joins = [];
    const origin = this.origin ?? 0;
    const draw = (segment, row) => {
      let height = 1;
      let from = segment.first;
      const bar = (to) => {
        if (to > from) bars.push({ segment, row, from: from - 1 - origin, to: to - 1 - origin });
      };
      for (const block of segment.blocks) {
        if (!block.paths.length) continue;
        const start = Math.min(...block.paths.map((path) => path.first));
        bar(start);
        let below = row;
        const tops = [];
        for (const path of block.paths) {
          tops.push(below);
          below += draw(path, below);
        }
        const end = Math.max(...block.paths.map((path) => path.last)) + 1;
        joins.push({ at: start - 1 - origin, row, rows: tops.at(-1) - row + 1 });
        if (block.state === "reduced") joins.push({ at: end - 1 - origin, row, rows: tops.at(-1) - row + 1 });
        height = Math.max(height, below - row);
        from = end;
      }
      bar(segment.last + 1);
      return height;
    };
    const root = this.segments.get("");
    return { bars, joins, rows: root ? draw(root, 0) : 0 };
  }
}
