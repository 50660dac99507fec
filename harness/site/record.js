"use strict";
// A record in a dialog: how it was measured, how to measure it again, all it says. Read from its own file when opened.

const waiting = {};

rollbench.record = (id, path, text) => {
  waiting[id]?.({ path, text });
};

function read(id) {
  return new Promise((found, lost) => {
    waiting[id] = found;
    const script = element("script", { src: `records/${id}.js`, onerror: () => lost(new Error("its file is gone")) });
    script.addEventListener("load", () => script.remove());
    document.head.append(script);
  });
}

// `again`: the command; `other`: another record beside it, by engine.
rollbench.open = async (id, again, others = []) => {
  const dialog = byId("record");
  let body;
  try {
    const { path, text } = await read(id);
    body = content(path, text, again);
  } catch (error) {
    body = [element("h2", { id: "record-title" }, "No such record"), element("p", {}, `${id}: ${error.message}`)];
  }
  const close = element("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close");
  const links = others.length ? [element("p", {}, "Compared with: ", others)] : [];
  dialog.replaceChildren(close, ...body, ...links);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  close.focus();
};

function content(path, text, again) {
  const file = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const save = element("p", {}, element("a", { href: file, download: path.split("/").pop() }, "Save the record"), " ", element("code", {}, path));
  let record;
  try {
    record = JSON.parse(text);
  } catch (error) {
    return [element("h2", { id: "record-title" }, path), save, element("pre", {}, text)];
  }
  const commit = record.commit ?? {};
  const machine = record.machine ?? {};
  return [
    element("h2", { id: "record-title" }, `${record.case} on ${record.engine}`),
    commands(record, again, commit),
    pairs({
      measured: `${record.started} to ${record.ended}`,
      machine: [machine.cpu, `${machine.cores} cores`, ...(machine.gpus ?? []), machine.driver && `driver ${machine.driver}`].filter(Boolean).join(", "),
      lane: `${record.lane}, lock ${record.lock_hash ? record.lock_hash.slice(0, 8) : "none"}`,
      commit: `${commit.id}${commit.dirty ? " (files differed)" : ""}`,
      run: record.run,
    }),
    launches(record.launches ?? []),
    ...["params", "options", "versions", "flags"].map((part) => element("details", { open: part === "params" }, element("summary", {}, part), pairs(record[part] ?? {}))),
    save,
  ];
}

function commands(record, again, commit) {
  const text = [commit.id && commit.id !== "unknown" && `git checkout ${commit.id}${commit.dirty ? "  # its files differed" : ""}`, again ?? `rollbench run ${record.case} -e ${record.engine} --launches ${(record.launches ?? []).length}`].filter(Boolean).join("\n");
  const said = element("span", { role: "status" });
  const copy = element("button", { type: "button", onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code);
      said.textContent = "selected";
    }
  } }, "Copy");
  const code = element("pre", {}, text);
  return element("div", { class: "again" }, element("h3", {}, "Measure it again"), code, copy, " ", said);
}

function pairs(values) {
  const say = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));
  return element("dl", {}, Object.entries(values).map(([key, value]) => element("div", {}, element("dt", {}, key), element("dd", {}, say(value)))));
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function launches(found) {
  const metrics = Object.keys(rollbench.held?.metrics ?? {}).filter((name) => found.some((launch) => launch.samples?.[name]?.length));
  const heads = ["metric", ...found.map((launch) => `launch ${launch.order}`)];
  const rows = metrics.map((name) => element("tr", {}, element("th", { scope: "row", title: rollbench.held.metrics[name][3] }, rollbench.held.metrics[name].slice(0, 2).filter(Boolean).join(", ")),
    found.map((launch) => { const samples = launch.samples?.[name] ?? []; return element("td", { title: samples.join(", ") }, samples.length ? `${quantity(median(samples))} (${samples.length})` : ""); })));
  const told = found.flatMap((launch) => [
    launch.error && `launch ${launch.order} failed: ${launch.error}`, launch.unsupported && `launch ${launch.order}: not supported: ${launch.unsupported}`,
    ...Object.entries(launch.certificates ?? {}).filter(([, c]) => c.ok === false).map(([name, c]) => `launch ${launch.order}, ${name}: ${c.reason}`)]).filter(Boolean);
  const certificates = found.flatMap((launch) => Object.entries(launch.certificates ?? {}).map(([name, c]) => element("tr", {},
    element("td", {}, String(launch.order)), element("td", {}, name), element("td", {}, c.ok === null ? "does not apply" : c.ok ? "holds" : "DOES NOT HOLD"), element("td", {}, c.reason))));
  return element("div", {}, element("h3", {}, "Launches"), told.map((line) => element("p", { class: "bad" }, line)),
    element("p", { class: "note" }, "The median of each launch, and of how many samples."),
    scroll("Samples", heads, rows),
    element("details", {}, element("summary", {}, "Certificates"), scroll("Certificates", ["launch", "certificate", "", "because"], certificates)));
}

function scroll(name, heads, rows) {
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name },
    element("table", {}, element("thead", {}, element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)))), element("tbody", {}, rows)));
}
