{% if slices %}
{% include "slices.js" %}

{% endif %}
// The page's own script: find, open large, decide, keep, hand on. Without it the page can be read and printed whole.
(function () {
  "use strict";
  var COLUMNS = ["image", "decision", "comment", "reviewer", "date"], DECISIONS = ["copy", "not a copy", "unsure"], AT_ONCE = 100;
  var data = JSON.parse(find("data").textContent), stored = "doppelscan:" + data.audit;
  var entries = data.rows.map(function (row, i) {
    var one = { n: i + 1 };
    data.columns.forEach(function (column, k) { one[column] = row[k]; });
    ["image", "match", "patient", "second", "secondPatient"].forEach(function (name) { one[name + "Short"] = data.names[one[name]][1]; one[name] = data.names[one[name]][0]; });
    one.flagged = one.kind !== "" && one.kind !== "unlike";
    one.words = [one.image, one.match, one.patient, one.second, one.condition, one.kind, one.why, one.pose].join(" ").toLowerCase();
    return one;
  });
  var byImage = new Map(entries.map(function (one) { return [one.image, one]; }));
  var cards = new Map(Array.from(document.querySelectorAll(".pair")).map(function (card) { return [Number(card.dataset.n), card]; }));
  var order = [], rest = [], shown = AT_ONCE, shownRows = AT_ONCE, falling = true, open = null, timer = null;

  function find(id) { return document.getElementById(id); }
  function value(id) { var one = find(id); return one ? one.value : ""; }
  function make(tag, text, into) { var one = document.createElement(tag); if (text) one.textContent = text; if (into) into.appendChild(one); return one; }
  function plural(count, word) { return count + " " + word + (count === 1 ? "" : "s"); }

  // Decisions: image -> reviewer -> decision, comment, date; kept by this browser for this audit alone.
  var decided = new Map(), remembers = true, given = JSON.stringify(data.decisions);
  function put(image, reviewer, said) {
    if (!decided.has(image)) decided.set(image, new Map());
    if (said) decided.get(image).set(reviewer, said); else decided.get(image).delete(reviewer);
    if (!decided.get(image).size) decided.delete(image);
  }
  function all() {
    var rows = [];
    decided.forEach(function (by, image) { by.forEach(function (said, reviewer) { rows.push([image, said.decision, said.comment, reviewer, said.date]); }); });
    return rows;
  }
  function take(rows) { rows.forEach(function (row) { put(row[0], row[3], { decision: row[1], comment: row[2], date: row[4] }); }); }
  function keep() {
    try { localStorage.setItem(stored, JSON.stringify(all())); localStorage.setItem(stored + ":given", given); } catch (error) { remembers = false; }
    if (!remembers) find("status").textContent = "This browser keeps nothing of a page from disk: save the decisions before you close it.";
  }
  function recall() {
    var kept = null, known = false;
    try {
      kept = JSON.parse(localStorage.getItem(stored) || "null");
      known = localStorage.getItem(stored + ":given") === given;
      find("reviewer").value = localStorage.getItem("doppelscan:reviewer") || "";
    } catch (error) { remembers = false; }
    // What was kept knows the page's own decisions: one that was withdrawn is not to come back. Of a later audit the page may have others.
    if (!kept || !known) take(data.decisions);
    take(kept || []);
  }
  function told(image) {
    var by = decided.get(image), kinds = by ? Array.from(new Set(Array.from(by.values()).map(function (said) { return said.decision; }))).filter(Boolean) : [];
    return kinds.length > 1 ? "disputed" : kinds[0] || "";
  }
  function removed(one) { var said = told(one.image); return one.flagged ? said !== "not a copy" : said === "copy"; }

  // CSV as the audit reads it.
  function toCsv(rows) {
    return rows.map(function (row) { return row.map(function (cell) { return /[",\r\n]/.test(cell) ? '"' + cell.replace(/"/g, '""') + '"' : cell; }).join(","); }).join("\n") + "\n";
  }
  function fromCsv(text) {
    var rows = [], row = [], cell = "", quoted = false, i;
    text = text.replace(/^\ufeff/, "");
    for (i = 0; i < text.length; i++) {
      var c = text[i];
      if (quoted) {
        if (c === '"' && text[i + 1] === '"') { cell += c; i++; } else if (c === '"') quoted = false; else cell += c;
      } else if (c === '"') quoted = true;
      else if (c === ",") { row.push(cell); cell = ""; }
      else if (c === "\n" || c === "\r") { if (c === "\r" && text[i + 1] === "\n") i++; row.push(cell); rows.push(row); row = []; cell = ""; }
      else cell += c;
    }
    if (cell || row.length) { row.push(cell); rows.push(row); }
    return rows.filter(function (one) { return one.some(Boolean); });
  }
  function save(name, rows) {
    var link = make("a"), address = URL.createObjectURL(new Blob([toCsv(rows)], { type: "text/csv" }));
    link.href = address; link.download = name; document.body.appendChild(link); link.click(); link.remove();
    setTimeout(function () { URL.revokeObjectURL(address); }, 1000);
    find("status").textContent = "Saved as " + name + ": " + plural(rows.length - 1, "row") + ".";
  }
  function isDate(text) { var day = new Date(text + "T00:00:00Z"); return /^\d{4}-\d\d-\d\d$/.test(text) && !isNaN(day) && day.toISOString().slice(0, 10) === text; }
  function read(text) {
    var rows = fromCsv(text), head = (rows.shift() || []).map(function (one) { return one.trim(); });
    var missing = COLUMNS.filter(function (column) { return head.indexOf(column) < 0; });
    if (missing.length) return "Nothing was read: the file has no column " + missing[0] + "; its first line must be " + COLUMNS.join(",") + ".";
    var found = [], k;
    for (k = 0; k < rows.length; k++) {
      var row = COLUMNS.map(function (column) { return (rows[k][head.indexOf(column)] || "").trim(); });
      row[1] = row[1].toLowerCase();
      if (!byImage.has(row[0])) return "Nothing was read: line " + (k + 2) + " names the image " + row[0] + ", which is not on this page.";
      if (DECISIONS.indexOf(row[1]) < 0) return "Nothing was read: line " + (k + 2) + " has the decision " + (row[1] || "(empty)") + "; it must be " + DECISIONS.join(", ") + ".";
      if (row[4] && !isDate(row[4])) return "Nothing was read: line " + (k + 2) + " has the date " + row[4] + "; write it as 2026-11-29.";
      found.push(row);
    }
    take(found); keep(); refresh();
    return plural(found.length, "decision") + " read.";
  }

  // Filter and sort.
  function wanted() {
    var words = value("text").toLowerCase().split(/\s+/).filter(Boolean), kind = value("kind"), patient = value("patient"), condition = value("condition");
    var least = parseFloat(value("least")), decision = value("decided");
    return function (one) {
      if (kind === "+" ? !one.flagged : kind === "-" ? one.flagged : kind && one.kind !== kind) return false;
      if (patient && (!one.flagged || (one.patient !== patient && one.secondPatient !== patient))) return false;
      if (condition && one.condition !== condition) return false;
      if (!isNaN(least) && !(one.score >= least)) return false;
      if (decision && (decision === "open" ? told(one.image) !== "" : told(one.image) !== decision)) return false;
      return words.every(function (word) { return one.words.indexOf(word) >= 0; });
    };
  }
  function sorter() {
    var key = value("sort"), sign = (key === "p" || key === "image" ? -1 : 1) * (falling ? 1 : -1);
    return function (a, b) {
      if (key === "image") return -sign * (a.image < b.image ? -1 : a.image > b.image ? 1 : 0);
      var x = a[key], y = b[key];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (y - x) || a.n - b.n;
    };
  }
  function apply() {
    var chosen = entries.filter(wanted());
    var plain = value("sort") === "score" && falling;
    if (!plain) chosen.sort(sorter());
    var flagged = chosen.filter(function (one) { return one.flagged; }), near;
    rest = chosen.filter(function (one) { return !one.flagged; });
    near = rest.filter(function (one) { return cards.has(one.n); });
    order = flagged.concat(rest);
    arrange(find("pairs"), flagged, shown);
    arrange(find("near"), near, Infinity);
    find("more").hidden = flagged.length <= shown;
    find("count").textContent = flagged.length + " of " + plural(entries.filter(function (one) { return one.flagged; }).length, "flagged pair") + ", "
      + Math.min(shown, flagged.length) + " shown; " + plural(rest.length, "other") + " below.";
    list();
  }
  function arrange(into, chosen, most) {
    if (!into) return;
    var here = new Set(chosen.slice(0, most).map(function (one) { return one.n; })), last = null;
    Array.from(into.children).forEach(function (card) { card.hidden = !here.has(Number(card.dataset.n)); });
    chosen.forEach(function (one) {
      if (here.has(one.n)) draw(one);
      var card = cards.get(one.n), place = last ? last.nextElementSibling : into.firstElementChild;
      if (card !== place) into.insertBefore(card, place);
      last = card;
    });
  }
  // What the page holds as a line becomes as the others are once it is come to.
  function draw(one) {
    var card = cards.get(one.n);
    if (!card.classList.contains("brief")) return;
    var strip = card.querySelector(".strip");
    card.classList.remove("brief");
    card.textContent = "";
    var look = make("div", "", card), button = make("button", strip ? "" : "details", look), into = make("dl", "", card);
    look.className = "look"; button.type = "button"; button.className = strip ? "open" : "open plain";
    if (strip) {
      button.appendChild(strip);
      button.setAttribute("aria-label", "open pair " + one.n + " large");
      var captions = make("p", "", look);
      captions.className = "captions"; captions.setAttribute("aria-hidden", "true");
      ["synthetic", "match, in its pose", one.same ? "no difference" : "difference", "agreement", "in training"].forEach(function (word) { make("span", word, captions); });
    }
    function line(word, text) { make("dt", word, into); return make("dd", text, into); }
    named(line("{{ "volume" if volumes else "image" }}", ""), one.image, one.imageShort); named(line(one.kind === "part" ? "source" : "match", ""), one.match, one.matchShort);
    var kind = make("span", one.kind, line("finding", ""));
    kind.className = /^(same|no s|unre)/.test(one.kind) ? "kind patient" : "kind";
    line("reason", one.why);
    named(line("patient", ""), one.patient, one.patientShort);
    line("pose", one.pose); line("score", one.score.toFixed(3) + (one.p === null ? "" : ", p " + one.pWords));
    if (one.condition) line("condition", one.condition);
    var said = make("p", "", card);
    said.className = "said"; mark(card, one);
  }
  function mark(card, one) {
    var said = told(one.image), line = card.querySelector(".said");
    if (!line) return;
    line.hidden = !said;
    line.textContent = said ? "reviewed: " + said + (one.flagged ? said === "not a copy" ? ", against the flag" : "" : said === "copy" ? ", though not flagged" : "") : "";
  }
  function list() {
    var body = find("rows"), conditions = Boolean(find("condition"));
    if (!body) return;
    find("rest").hidden = false;
    body.textContent = "";
    rest.slice(0, shownRows).forEach(function (one) {
      var row = make("tr", "", body), button = make("button", "", make("td", "", row));
      spell(button, one.imageShort); button.type = "button"; button.title = one.image;
      button.addEventListener("click", function () { enlarge(one); });
      named(make("td", "", row), one.match, one.matchShort);
      named(make("td", "", row), one.patient, one.patientShort);
      if (conditions) make("td", one.condition, row);
      make("td", one.score === null ? "" : one.score.toFixed(3), row).className = "number";
      make("td", one.why, row);
      make("td", told(one.image), row);
    });
    find("restcount").textContent = rest.length + " in this choice, " + Math.min(shownRows, rest.length) + " shown, nearest first unless sorted otherwise.";
    find("morerows").hidden = rest.length <= shownRows;
  }
  // A line breaks no extension.
  function spell(into, text) {
    var end = text.search(/(\.[A-Za-z0-9]{1,5}){1,2}(#[\w=,]{1,16})?$/);
    if (end <= 0) { into.append(text); return; }
    into.append(text.slice(0, end));
    make("span", text.slice(end), into).className = "ext";
  }
  function named(into, full, brief) { var one = make("span", "", into); spell(one, brief); one.className = "name"; if (brief !== full) one.title = full; }
  function refresh() {
    cards.forEach(function (card, n) { mark(card, entries[n - 1]); });
    list();
    var counts = DECISIONS.concat("disputed").map(function (kind) { return [kind, entries.filter(function (one) { return told(one.image) === kind; }).length]; });
    var against = entries.filter(function (one) { var said = told(one.image); return one.flagged ? said === "not a copy" : said === "copy"; }).length;
    if (decided.size && remembers) find("status").textContent = "Decided: " + counts.filter(function (one) { return one[1]; }).map(function (one) { return one[1] + " " + one[0]; }).join(", ")
      + "; " + against + " against the audit. The conclusion does not change.";
    else if (remembers) find("status").textContent = "";
  }

  // A pair, large.
  var TILES = { 5: ["synthetic", "match, in its pose", "difference", "where they agree", "match in training"], 2: ["synthetic", "match in training"] };
  function enlarge(one) {
    open = one;
    var card = cards.get(one.n), strip = card ? card.querySelector(".strip") : null, source = strip ? strip.getAttribute("src") : one.picture;
    source = one.large || source;
    var views = find("views"), dialog = find("dialog");
    find("title").textContent = "";
    spell(find("title"), one.imageShort); find("title").append(one.flagged ? ": " + one.kind : ": not flagged");
    views.textContent = "";
    find("stage").hidden = !source; find("nopicture").hidden = Boolean(source);
    find("nopicture").textContent = {% if redact %}"This report is redacted: it holds no pictures."{% else %}"The page holds no picture of this pair: it has those of the first {{ pictured }} flagged ones and of the nearest of the others."{% endif %};
    (TILES[one.tiles] || []).forEach(function (caption, k) {
      if (caption === "difference" && one.same) caption = "no difference";
      var figure = make("figure", "", views), image = make("img", "", figure);
      image.alt = caption; image.src = source; image.style.objectPosition = 100 * k / (one.tiles - 1) + "% 0";
      make("figcaption", caption, figure);
    });
    Array.from(find("modes").children).forEach(function (button) { button.hidden = one.tiles === 2 && /difference|agreement/.test(button.dataset.mode); });
    {% if slices %}
    find("slicing").hidden = !(strip && strip.dataset.synthetic);
    if (strip && strip.dataset.synthetic) window.goThroughSlices(strip.dataset, find("slice"), find("place"), views.children);
    {% endif %}
    mode("side");
    values(one);
    decisions(one);
    var at = order.indexOf(one);
    find("previous").disabled = at <= 0; find("next").disabled = at < 0 || at === order.length - 1;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    find("title").focus();
  }
  function values(one) {
    var into = find("values");
    into.textContent = "";
    function line(word, text) { if (text === "" || text === null) return null; explained(make("dt", "", into), word); return make("dd", text === true ? "" : text, into); }
    function path(word, full, brief) {
      if (!full) return;
      var place = line(word, true);
      make("code", full, place); place.append(" ");
      var button = make("button", "copy name", place);
      button.type = "button"; button.setAttribute("aria-label", "copy the name of the " + word);
      button.addEventListener("click", function () { hand(full); });
    }
    function number(x, digits) { return x === null ? null : x.toFixed(digits); }
    path("synthetic {{ "volume" if volumes else "image" }}", one.image); path("training {{ "volume" if volumes else "image" }}", one.match); path("patient", one.patient); path("second source", one.second);
    line("condition", one.condition);
    if (one.tiles) line("picture", one.side ? one.side + " pixels a side, as the files have them{% if volumes %}; slices that are gone through have {{ side }}{% endif %}" : {% if volumes %}"{{ side }} voxels a side"{% else %}"at most 128 pixels a side"{% endif %});
    line(one.flagged ? "flagged by" : "not flagged", one.why);
    line("pose", one.tiles === 2 && !one.flagged ? one.pose + " (not drawn)" : one.pose);
    line("score", number(one.score, 3)); line("verified", number(one.verified, 3)); line("p", one.p === null ? null : one.pWords); line("q", one.q === null ? null : one.qWords);
    line("SSIM", number(one.ssim, 3)); line("{{ "structure" if volumes else "field of view" }}", one.share === null ? null : Math.round(100 * one.share) + " %");
    {% if not volumes %}line("best region", number(one.part, 3)); line("DeepSSIM", number(one.deepssim, 3)); line("MI", number(one.mi, 2));{% endif %}

  }
  // The gloss of a term stands at it, here too.
  function explained(into, word) {
    var known = Array.from(document.querySelectorAll(".words .gloss")).find(function (one) { return one.firstElementChild.textContent === word; });
    if (!known) { into.textContent = word; return; }
    var copy = known.cloneNode(true);
    copy.open = false;
    into.appendChild(copy);
  }
  function hand(text) {
    function done() { find("heard").textContent = "Copied."; }
    function fall() {
      var area = make("textarea", "", find("dialog")); area.value = text; area.select();
      var worked = document.execCommand("copy"); area.remove();
      find("heard").textContent = worked ? "Copied." : "This browser does not let a page copy; select the name instead.";
    }
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, fall); else fall();
  }
  function mode(name) {
    clearInterval(timer); timer = null;
    var views = find("views"), two = name === "flicker" || name === "wipe", still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    views.className = "views " + name;
    Array.from(find("modes").children).forEach(function (button) { button.setAttribute("aria-pressed", String(button.dataset.mode === name)); });
    Array.from(views.children).forEach(function (figure, k) {
      figure.className = (two ? k < 2 : name === "difference" ? k === 2 : k === 3) ? "on" : "";
      figure.style.clipPath = "";
    });
    find("swap").hidden = name !== "flicker"; find("wiping").hidden = name !== "wipe";
    document.querySelector(".scale.difference").hidden = name !== "difference" || Boolean(open && open.same);
    find("nodifference").hidden = name !== "difference" || !(open && open.same); document.querySelector(".scale.agreement").hidden = name !== "agreement";
    if (name === "flicker") flick(!still);
    if (name === "wipe") wipe();
  }
  function flick(running) {
    clearInterval(timer); timer = null;
    find("swap").setAttribute("aria-pressed", String(running)); find("swap").textContent = running ? "pause" : "swap";
    if (running) timer = setInterval(swap, 700);
  }
  function swap() { var top = find("views").children[1]; if (top) top.classList.toggle("off"); }
  function wipe() { var top = find("views").children[1]; if (top) top.style.clipPath = "inset(0 0 0 " + (100 - Number(find("wipe").value)) + "%)"; }

  function decisions(one) {
    var said = (decided.get(one.image) || new Map()).get(value("reviewer")) || { decision: "", comment: "" }, others = [];
    document.querySelectorAll('input[name="decision"]').forEach(function (radio) { radio.checked = radio.value === said.decision; });
    find("comment").value = said.comment;
    (decided.get(one.image) || new Map()).forEach(function (other, reviewer) {
      if (reviewer !== value("reviewer")) others.push((reviewer || "somebody") + ": " + other.decision + (other.comment ? " (" + other.comment + ")" : ""));
    });
    find("elsewhere").textContent = others.length ? "Others decided: " + others.join("; ") + "." : "";
  }
  function decide(decision) {
    var now = new Date(), date = new Date(now.getTime() - 60000 * now.getTimezoneOffset()).toISOString().slice(0, 10);
    put(open.image, value("reviewer"), decision ? { decision: decision, comment: find("comment").value.trim(), date: date } : null);
    keep(); refresh(); decisions(open);
    find("heard").textContent = decision ? "Decided: " + decision + "." : "No decision.";
  }
  function step(by) { var next = order[order.indexOf(open) + by]; if (next) enlarge(next); }

  document.addEventListener("click", function (event) {
    var button = event.target.closest(".open");
    if (button) enlarge(entries[Number(button.closest(".pair").dataset.n) - 1]);
  });
  find("modes").addEventListener("click", function (event) { if (event.target.dataset.mode) mode(event.target.dataset.mode); });
  find("swap").addEventListener("click", function () { if (timer) flick(false); else if (find("swap").textContent === "swap") { swap(); } });
  find("wipe").addEventListener("input", wipe);
  find("previous").addEventListener("click", function () { step(-1); });
  find("next").addEventListener("click", function () { step(1); });
  find("close").addEventListener("click", function () { find("dialog").close(); });
  find("dialog").addEventListener("close", function () {
    mode("side");
    var card = open && cards.get(open.n), button = card && !card.hidden ? card.querySelector(".open") : null;
    if (button) button.focus();
    if (value("decided")) apply();
  });
  document.querySelectorAll('input[name="decision"]').forEach(function (radio) { radio.addEventListener("change", function () { decide(radio.value); }); });
  find("comment").addEventListener("change", function () {
    var chosen = document.querySelector('input[name="decision"]:checked');
    if (chosen && chosen.value) decide(chosen.value); else find("heard").textContent = "The comment is kept with a decision: choose one.";
  });
  document.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    var typing = /^(TEXTAREA|SELECT)$/.test(event.target.tagName) || /^(text|search|number)$/.test(event.target.type || "");
    if (typing) return;
    if (!find("dialog").open) { if (event.key === "/") { find("text").focus(); event.preventDefault(); } return; }
    var modes = { 1: "side", 2: "flicker", 3: "wipe", 4: "difference", 5: "agreement" }, kinds = { c: "copy", x: "not a copy", u: "unsure", 0: "" };
    if (event.key === "n") step(1);
    else if (event.key === "p") step(-1);
    else if (event.key in kinds) decide(kinds[event.key]);
    else if (event.key in modes && open.tiles && !(open.tiles === 2 && event.key > 3)) mode(modes[event.key]);
  });
  find("reviewer").addEventListener("change", function () { try { localStorage.setItem("doppelscan:reviewer", value("reviewer")); } catch (error) { remembers = false; } });
  find("export").addEventListener("click", function () { save("decisions.csv", [COLUMNS].concat(all())); });
  find("remove").addEventListener("click", function () {
    save("remove.csv", [["image", "finding", "decision"]].concat(entries.filter(removed).map(function (one) { return [one.image, one.flagged ? one.kind : "", told(one.image)]; })));
  });
  find("import").addEventListener("change", function () {
    var file = find("import").files[0];
    if (file) file.text().then(function (text) { find("status").textContent = read(text); find("import").value = ""; });
  });
  ["text", "least"].forEach(function (id) { find(id).addEventListener("input", again); });
  ["kind", "patient", "condition", "decided", "sort"].forEach(function (id) { if (find(id)) find(id).addEventListener("change", again); });
  find("turn").addEventListener("click", function () { falling = !falling; find("turn").setAttribute("aria-pressed", String(!falling)); again(); });
  find("filters").addEventListener("submit", function (event) { event.preventDefault(); });
  find("filters").addEventListener("reset", function () { falling = true; find("turn").setAttribute("aria-pressed", "false"); setTimeout(again, 0); });
  find("more").addEventListener("click", function () { shown += AT_ONCE; apply(); });
  find("morerows").addEventListener("click", function () { shownRows += AT_ONCE; list(); });
  window.addEventListener("beforeprint", function () { document.querySelectorAll("details").forEach(function (one) { one.open = true; }); });
  function again() { shown = shownRows = AT_ONCE; apply(); }

  recall(); apply(); refresh();
})();
