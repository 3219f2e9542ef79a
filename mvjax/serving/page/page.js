// The page: what the engine does, from /live; a conversation through /v1/chat/completions; one answer at a time.

import { Answer } from "./answer.js";
import { askForKey, authorized, complaint, events } from "./events.js";
import { AnswerView, LanesView, element } from "./view.js";

const $ = (id) => document.getElementById(id);
const ENDED_SHOWN = 12;
const EXAMPLE =
  "There are 4 parts. Part 1: start at 5, add 3, subtract 2, add 6. " +
  "Part 2: start at 9, subtract 4, add 7, subtract 1. Part 3: start at 2, add 8, add 5, subtract 6. " +
  "Part 4: start at 7, add 4, subtract 3, add 9. What is each part?";

// ---- The key

function keyDialog(wrong) {
  const dialog = $("key-dialog");
  $("key-wrong").hidden = !wrong;
  $("key").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    $("key-form").addEventListener("submit", () => resolve($("key").value), { once: true });
  });
}
$("key-dialog").addEventListener("cancel", (event) => event.preventDefault()); // Nothing works without it.

const ask = (url, options = {}) => authorized(url, options, keyDialog);

// ---- Drawing: at most once a frame

const dirty = new Set();
let frame = 0;
let follows = true; // The end of the conversation is kept in view, unless the reader has scrolled away from it.

const below = () => document.querySelector("main").getBoundingClientRect().bottom - innerHeight;
addEventListener("scroll", () => (follows = below() < 120), { passive: true });

function draw(...views) {
  views.forEach((view) => view && dirty.add(view));
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    for (const view of dirty) view.update();
    dirty.clear();
    if (follows && below() > 0 && mine.size) scrollBy({ top: below() });
  });
}

// ---- What the engine does

const rates = [];
function showStats(stats) {
  const shown = { ...stats, pages: `${stats.pages_used} / ${stats.pages}`, degree: stats.degree.toFixed(2) };
  for (const node of document.querySelectorAll("[data-gauge]")) node.textContent = String(shown[node.dataset.gauge]);
  $("pages").value = stats.pages ? stats.pages_used / stats.pages : 0;
  rates.push(stats.tokens_per_second);
  if (rates.length > 60) rates.shift();
  const top = Math.max(...rates, 1);
  const points = rates.map((rate, index) => `${index + 60 - rates.length},${(15 - (14 * rate) / top).toFixed(1)}`);
  $("rate").firstElementChild.setAttribute("points", points.join(" "));
}

// ---- Requests of everybody

const live = new Map(); // id -> {answer, item, lanes, line}
let watched = null; // {id, view} of the dialog

class Item {
  constructor(answer) {
    this.answer = answer;
    this.element = element("li");
    this.button = element("button", "request");
    this.button.type = "button";
    this.button.dataset.request = answer.id;
    this.name = element("span", "request-name", answer.id.slice(0, 8));
    this.line = element("span", "request-line");
    this.lanes = new LanesView(answer, true);
    const head = element("span", "request-head");
    head.append(this.name, this.line);
    this.button.append(head, this.lanes.element);
    this.button.addEventListener("click", () => watch(answer.id));
    this.element.append(this.button);
  }

  update() {
    const { answer } = this;
    this.button.dataset.state = answer.state;
    const state = answer.state === "ended" ? (answer.reason ?? "ended") : answer.state;
    const line = answer.tokens ? `${state} · ${answer.tokens} tokens · ${answer.degree.toFixed(1)}` : state;
    if (this.line.textContent !== line) this.line.textContent = line;
    this.name.textContent = mine.has(answer.id) ? "yours" : answer.id.slice(0, 8);
    this.lanes.update();
  }
}

function show(answer) {
  const old = live.get(answer.id);
  const item = new Item(answer);
  live.set(answer.id, item);
  if (old) old.element.replaceWith(item.element);
  else $("others").prepend(item.element);
  const ended = [...live.values()].filter((one) => one.answer.state === "ended");
  for (const one of ended.slice(0, Math.max(0, ended.length - ENDED_SHOWN))) {
    if (one.answer.id !== watched?.id) {
      live.delete(one.answer.id);
      one.element.remove();
    }
  }
  $("nobody").hidden = live.size > 0;
  if (watched?.id === answer.id) watch(answer.id);
  draw(item);
}

function watch(id) {
  const item = live.get(id);
  if (!item) return;
  const view = new AnswerView(item.answer);
  watched = { id, view };
  $("watched-title").textContent = `Request ${id.slice(0, 16)}`;
  $("watched-answer").replaceChildren(view.element);
  view.update();
  if (!$("watched").open) $("watched").showModal();
}
$("watched").addEventListener("close", () => (watched = null));

function take({ kind, data }) {
  if (kind === "stats") return showStats(data);
  if (kind === "snapshot") {
    $("model").textContent = data.model;
    document.title = `mvjax · ${data.model}`;
    showStats(data.stats);
    const told = new Set(data.requests.map((request) => request.id));
    for (const [id, item] of live) {
      if (told.has(id)) continue;
      live.delete(id);
      item.element.remove();
    }
    data.requests.forEach((request) => show(Answer.from(request)));
    return undefined;
  }
  if (kind === "request") return show(Answer.from(data));
  const item = live.get(data.id);
  if (!item) return undefined;
  if (kind === "branch") item.answer.apply(data);
  else if (kind === "progress") item.answer.progress(data);
  else if (kind === "ended") item.answer.end(data);
  const own = mine.get(data.id);
  if (own && kind === "progress") own.view.answer.progress(data);
  if (own && kind === "ended") own.view.answer.end({ ...data, error: own.view.answer.error });
  draw(item, watched?.id === data.id && watched.view, own?.view);
  return undefined;
}

async function listen() {
  let last = "";
  let pause = 500;
  for (;;) {
    try {
      const response = await ask("live", { headers: last ? { "Last-Event-ID": last } : {}, cache: "no-store" });
      if (!response.ok) throw new Error(await complaint(response));
      $("connection").textContent = "live";
      $("connection").dataset.state = "live";
      pause = 500;
      for await (const event of events(response)) {
        take({ kind: event.kind, data: JSON.parse(event.data) });
        last = event.id || last;
      }
    } catch (error) {
      console.info("live:", error.message);
    }
    $("connection").textContent = "connecting again";
    $("connection").dataset.state = "lost";
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 10000);
  }
}

// ---- The conversation

const mine = new Map(); // id -> {view}
let messages = [];
let chat = null; // AbortController of the answer that grows
let model = null;

function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function modelName() {
  const response = await ask("v1/models");
  if (!response.ok) throw new Error(await complaint(response));
  return (await response.json()).data[0].id;
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
}

function said(text) {
  const node = element("article", "question", text);
  node.setAttribute("aria-label", "Your message");
  $("welcome").hidden = true;
  $("conversation").append(node);
}

async function send(text) {
  said(text);
  const id = newId();
  const answer = new Answer(id);
  const view = new AnswerView(answer);
  mine.set(id, { view });
  $("conversation").append(view.element);
  follows = true;
  draw(view);
  chat = new AbortController();
  busy(true);
  const turn = [...messages, { role: "user", content: text }];
  let content = "";
  let finished = null;
  try {
    model ??= await modelName();
    const body = {
      model,
      messages: turn,
      stream: true,
      stream_options: { include_branches: true, include_usage: true },
      mode: $("mode").value || undefined,
      max_tokens: Number($("tokens").value) || undefined,
      temperature: Number($("temperature").value),
    };
    const response = await ask("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Request-Id": id },
      body: JSON.stringify(body),
      signal: chat.signal,
    });
    if (!response.ok) throw new Error(await complaint(response));
    for await (const event of events(response)) {
      if (event.data === "[DONE]") break;
      const chunk = JSON.parse(event.data);
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices?.[0];
      if (choice?.delta?.branch) answer.apply(choice.delta.branch);
      content += choice?.delta?.content ?? "";
      finished = choice?.finish_reason ?? finished;
      if (chunk.usage) finish(answer, chunk.usage);
      draw(view);
    }
    answer.end({ reason: finished });
    messages = [...turn, { role: "assistant", content }];
    $("announcement").textContent = `Answer ended: ${view.summary()}`;
  } catch (error) {
    const stopped = error.name === "AbortError";
    answer.end({ reason: stopped ? "stopped" : "error", error: stopped ? null : error.message });
    if (stopped && content) messages = [...turn, { role: "assistant", content }];
  } finally {
    chat = null;
    busy(false);
    draw(view);
  }
}

/** What the whole answer took. */
function finish(answer, usage) {
  const path = usage.critical_path_tokens;
  if (!path) return;
  answer.began(path);
  answer.progress({ tokens: usage.completion_tokens, degree: usage.degree ?? usage.completion_tokens / path });
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || chat) return;
  $("prompt").value = "";
  send(text);
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  } else if (event.key === "Escape" && chat) chat.abort();
});
$("stop").addEventListener("click", () => chat?.abort());
$("again").addEventListener("click", () => {
  chat?.abort();
  messages = [];
  mine.clear();
  for (const node of document.querySelectorAll("#conversation > article")) node.remove();
  $("welcome").hidden = false;
  $("prompt").focus();
});
$("example").addEventListener("click", () => {
  $("prompt").value = EXAMPLE;
  $("prompt").focus();
});

listen();
