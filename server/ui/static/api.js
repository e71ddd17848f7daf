// What the page asks of the server. Addresses are relative, so that the page also works below a
// proxy's path; the key stays in this module's memory.

const MOST_AGAIN = 4; // times that a server is asked again that is busy, and says for how long
const LONGEST_WAIT_MS = 2000;

let key = "";
const whenRefused = [];

/** An answer that is an error, with the fields that the server gave it. */
export class ApiError extends Error {
  constructor(status, body) {
    const found = body && typeof body.error === "object" && body.error !== null ? body.error : {};
    super(found.message ?? `the server answered with status ${status}`);
    this.status = status;
    this.type = found.type ?? found.code ?? "unknown";
    this.feasible = found.feasible;
  }
}

/** Use another key from now on. */
export function useKey(text) {
  key = text.trim();
}

/** Have a function called when the server wants a key, or another. */
export function onRefused(listener) {
  whenRefused.push(listener);
}

/** Return the JSON of GET. */
export const get = (path, own = key) => sent(path, { method: "GET" }, own);

/** Return the answer to a JSON body. */
export const post = (path, body, own = key) => sent(path, asJson("POST", body), own);

/** Return the answer to a JSON body that is stored. */
export const put = (path, body, own = key) => sent(path, asJson("PUT", body), own);

/** Delete what is at a path. */
export const remove = (path, own = key) => sent(path, { method: "DELETE" }, own);

/** Return the text of the server's metrics. */
export async function metrics() {
  const response = await answered("metrics", { method: "GET" }, key);
  return response.text();
}

function asJson(method, body) {
  return { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

async function sent(path, options, own) {
  const response = await answered(path, options, own);
  return response.status === 204 ? null : response.json();
}

async function answered(path, options, own) {
  const headers = { ...options.headers, ...(own ? { authorization: `Bearer ${own}` } : {}) };
  let response = await fetched(path, { ...options, headers, cache: "no-store" });
  for (let again = 0; again < MOST_AGAIN && !response.ok; again += 1) {
    const wait = Number(response.headers.get("retry-after-ms") ?? Infinity);
    if (wait > LONGEST_WAIT_MS) break;
    await new Promise((resolve) => { setTimeout(resolve, wait); });
    response = await fetched(path, { ...options, headers, cache: "no-store" });
  }
  if (response.ok) return response;
  const error = new ApiError(response.status, await response.json().catch(() => null));
  if (response.status === 401 && own === key) whenRefused.forEach((listener) => listener(error));
  throw error;
}

async function fetched(path, options) {
  try {
    return await fetch(new URL(path, document.baseURI), options);
  } catch {
    throw new Error("the server cannot be reached");
  }
}
