// Server-sent events over fetch: unlike EventSource it sends the API key and a body.

/** The events of a response: {id, kind, data}, data as text. Comments are left out. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      let end;
      while ((end = /\r?\n\r?\n/.exec(rest))) {
        const event = { id: "", kind: "message", data: "" };
        for (const line of rest.slice(0, end.index).split(/\r?\n/)) {
          const [, name, text] = /^([^:]*):? ?(.*)$/s.exec(line);
          if (name === "data") event.data += (event.data ? "\n" : "") + text;
          else if (name === "event") event.kind = text;
          else if (name === "id") event.id = text;
        }
        rest = rest.slice(end.index + end[0].length);
        if (event.data) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

let key = ""; // In memory only.
let asking = null;

/** Ask for the key once, however many requests wait for it. `dialog(wrong)` gives it. */
export function askForKey(dialog) {
  asking ??= dialog(key !== "").then((given) => {
    key = given;
    asking = null;
  });
  return asking;
}

/** fetch with the key; asks for it as long as the server answers 401. */
export async function authorized(url, options, dialog) {
  for (;;) {
    const used = key;
    const headers = { ...options.headers, ...(used ? { Authorization: `Bearer ${used}` } : {}) };
    const response = await fetch(url, { ...options, headers });
    if (response.status !== 401) return response;
    if (used === key) await askForKey(dialog);
  }
}

/** What an error response says, in a line. */
export async function complaint(response) {
  const body = await response.json().catch(() => ({}));
  return body?.error?.message ?? body?.detail ?? `the server answered ${response.status}`;
}
