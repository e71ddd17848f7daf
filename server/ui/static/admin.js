// Clients and keys, for who has the scope admin.

import { get, post, put, remove, useKey } from "./api.js";
import { byId, make, short } from "./dom.js";

const DAY_S = 86400;
const SCOPES = ["infer", "metrics", "admin"];
let adminKey; // undefined until something is typed: then the page's own key is used
let isOpen = false; // there are no keys, and everybody on the machine may do everything

/** Listen to the section "Clients and keys". */
export function watchAdmin() {
  byId("admin-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    adminKey = byId("admin-key").value.trim() || undefined;
    await refresh("Opened.");
  });
}

async function refresh(done) {
  const state = byId("admin-state");
  try {
    const [{ clients }, { keys }] = [await get("v1/clients", adminKey), await get("v1/keys", adminKey)];
    isOpen = !keys.some((one) => !one.revoked);
    byId("admin").replaceChildren(
      make("h3", {}, "Clients"), clientTable(clients), clientForm(),
      make("h3", {}, "Keys"), keyTable(keys), keyForm(clients),
    );
    byId("admin").hidden = false;
    state.textContent = done;
  } catch (problem) {
    byId("admin").hidden = true;
    state.textContent = problem.message;
  }
}

/** Do something as admin, show what became of it, and read everything anew. */
async function act(work, done) {
  try {
    await work();
    await refresh(done);
  } catch (problem) {
    byId("admin-state").textContent = problem.message;
  }
}

function table(caption, heads, rows) {
  if (!rows.length) return make("p", { class: "faint" }, `No ${caption.toLowerCase()} yet.`);
  return make("div", { class: "scroll", tabindex: 0 }, make(
    "table", {}, make("caption", { class: "unseen" }, caption),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))))),
  ));
}

function clientTable(clients) {
  const heads = ["Name", "Share at most", "Requests/s", "FLOPs a day", "Class", "Weight", "Models", ""];
  return table("Clients", heads, clients.map((one) => [
    one.id,
    one.maximum.fraction ?? "–",
    one.quota.requests_per_s ?? "–",
    one.quota.flops_per_day ? short(one.quota.flops_per_day) : "–",
    `${one.priority}`,
    `${one.weight}`,
    one.models?.join(", ") ?? "all",
    twice("Delete", `Delete ${one.id} and its keys`, () =>
      act(() => remove(`v1/clients/${encodeURIComponent(one.id)}`, adminKey), `${one.id} is deleted.`)),
  ]));
}

function keyTable(keys) {
  const heads = ["Id", "Client", "Scopes", "Label", "Made", "Used", "State", ""];
  const now = Date.now() / 1000;
  return table("Keys", heads, keys.map((one) => [
    make("code", {}, one.id), one.client ?? "–", one.scopes.join(", "), one.label, date(one.created),
    one.last_used ? date(one.last_used) : "never",
    one.revoked ? "revoked" : one.expires ? `${one.expires < now ? "expired" : "until"} ${date(one.expires)}` : "good",
    one.revoked ? "" : twice("Revoke", `Revoke the key ${one.id}`, () =>
      act(() => remove(`v1/keys/${encodeURIComponent(one.id)}`, adminKey), `Key ${one.id} is revoked.`)),
  ]));
}

/** Return a button that acts when it is pressed a second time. */
function twice(name, label, work) {
  let isSure = false;
  return make("button", {
    type: "button", class: "quiet", "aria-label": label,
    click: (event) => {
      if (isSure) { work(); return; }
      isSure = true;
      event.target.textContent = "Really?";
      event.target.setAttribute("aria-label", `${label}: really?`);
    },
    blur: (event) => {
      isSure = false;
      event.target.textContent = name;
      event.target.setAttribute("aria-label", label);
    },
  }, name);
}

function field(id, label, properties) {
  return make("div", {}, make("label", { for: id }, label), make("input", { id, ...properties }));
}

function number(id) {
  const { value } = byId(id);
  return value === "" ? null : Number(value);
}

function clientForm() {
  const amount = { type: "number", step: "any", min: 0 };
  return make("form", {
    class: "fields", autocomplete: "off",
    submit: (event) => {
      event.preventDefault();
      const name = byId("client-name").value.trim();
      const quota = { requests_per_s: number("client-rate"), flops_per_day: number("client-flops") };
      const body = {
        maximum: { fraction: number("client-share") }, quota,
        priority: number("client-class") ?? 0, weight: number("client-weight") ?? 1,
      };
      act(() => put(`v1/clients/${encodeURIComponent(name)}`, body, adminKey), `${name} is stored.`);
    },
  },
  field("client-name", "Name", { required: true, maxlength: 64 }),
  field("client-share", "Share at most", { ...amount, max: 1 }),
  field("client-rate", "Requests/s", amount),
  field("client-flops", "FLOPs a day", amount),
  field("client-class", "Class, 0 first", { type: "number", min: 0, max: 9, value: 0 }),
  field("client-weight", "Weight", { ...amount, value: 1 }),
  make("button", { type: "submit", class: "quiet" }, "Store client"));
}

function keyForm(clients) {
  const owner = make("select", { id: "key-client" }, make("option", { value: "" }, "nobody's"),
    ...clients.map((one) => make("option", { value: one.id }, one.id)));
  const boxes = SCOPES.map((scope) => make("label", { class: "check" },
    make("input", { type: "checkbox", value: scope, checked: scope === "infer" }), ` ${scope}`));
  return make("form", {
    class: "fields", autocomplete: "off",
    submit: async (event) => {
      event.preventDefault();
      const days = number("key-days");
      const body = {
        scopes: boxes.map((box) => box.firstChild).filter((box) => box.checked).map((box) => box.value),
        client: owner.value || null, label: byId("key-label").value,
        expires_in_s: days === null ? null : DAY_S * days,
      };
      if (isOpen && body.scopes.length < SCOPES.length) {
        byId("admin-state").textContent =
          "From the first key on, every request needs one. Give it all scopes, so that this page can go on with it.";
        return;
      }
      await act(async () => {
        const { key } = await post("v1/keys", body, adminKey);
        byId("key-made").replaceChildren("Shown this once: ", make("code", {}, key));
        if (isOpen) useKey(key);
      }, "The key is made.");
    },
  },
  make("div", {}, make("label", { for: "key-client" }, "Client"), owner),
  make("fieldset", {}, make("legend", {}, "Scopes"), ...boxes),
  field("key-label", "Label", { maxlength: 200 }),
  field("key-days", "Good for days", { type: "number", min: 0, step: "any" }),
  make("button", { type: "submit", class: "quiet" }, "Make key"));
}

function date(seconds) {
  return new Date(1000 * seconds).toISOString().slice(0, 16).replace("T", " ");
}
