"use strict";
// Ties the pictures, the numbers and the charts of a page to one slider.
(() => {
  const runs = [...document.querySelectorAll("[data-run]")].map(openRun);
  const slider = document.querySelector("[data-slider]");
  if (!slider) return;

  const last = Number(slider.max);
  const where = document.querySelector("[data-where]");
  const play = document.querySelector("[data-play]");
  let timer = null;

  function moveTo(iteration) {
    const inside = Math.min(Math.max(Math.round(iteration), 0), last);
    slider.value = String(inside);
    where.textContent = String(inside);
    for (const run of runs) run.show(inside);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.setAttribute("aria-pressed", "false");
    play.setAttribute("aria-label", "Play");
  }

  function start() {
    // A whole run takes some seconds, however long it is.
    const stride = Math.max(1, Math.ceil(last / 60));
    const pause = Math.min(Math.max(4000 / (last / stride), 60), 350);
    if (Number(slider.value) >= last) moveTo(0);
    play.setAttribute("aria-pressed", "true");
    play.setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      moveTo(Number(slider.value) + stride);
      if (Number(slider.value) >= last) stop();
    }, pause);
  }

  function toggle() {
    if (timer === null) start();
    else stop();
  }

  slider.addEventListener("input", () => {
    stop();
    moveTo(Number(slider.value));
  });
  play.addEventListener("click", toggle);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const on = event.target instanceof Element ? event.target : document.body;
    const step = event.shiftKey ? 10 : 1;
    const now = Number(slider.value);
    const moves = {
      ArrowLeft: now - step,
      ArrowRight: now + step,
      Home: 0,
      End: last,
    };
    if (event.key in moves && !on.closest(".scroll, pre")) {
      event.preventDefault();
      stop();
      moveTo(moves[event.key]);
    } else if (event.key === " " && !on.closest("button, summary, a")) {
      event.preventDefault();
      toggle();
    }
  });

  for (const run of runs) {
    run.onMove = (iteration) => {
      stop();
      moveTo(iteration);
    };
  }

  // What is folded away is wanted on paper.
  let opened = [];
  addEventListener("beforeprint", () => {
    for (const one of document.querySelectorAll("details:not([open])")) {
      one.open = true;
      opened.push(one);
    }
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
    opened = [];
  });

  document.body.classList.add("live");
  moveTo(last);
})();

function openRun(root) {
  const facts = JSON.parse(root.querySelector("[data-facts]").textContent);
  const frames = facts.frames;
  const sheets = frames ? frames.uris.map(load) : [];
  const kept = [...root.querySelectorAll("img[data-shot]")];
  const span = Math.max(facts.last - facts.first, 1);
  const axisLast = facts.at.length ? facts.at[facts.at.length - 1] : facts.last;
  let item = 0;
  let iteration = facts.last;

  const run = {
    onMove: null,
    show(wanted) {
      iteration = Math.min(wanted, facts.last);
      draw();
    },
  };

  function load(uri) {
    const image = new Image();
    image.addEventListener("load", () => draw());
    image.src = uri;
    return image;
  }

  // The place of the last entry of a sorted list that is no higher; -1 where all are.
  function placeOf(sorted, wanted) {
    let found = -1;
    for (let i = 0; i < sorted.length && sorted[i] <= wanted; i += 1) found = i;
    return found;
  }

  function own(name) {
    return kept.find((one) => one.dataset.shot === name && Number(one.dataset.item) === item);
  }

  // The picture that was there at an iteration: a frame, or one of the three that are kept whole.
  function pictureAt(wanted) {
    const candidates = [];
    for (const name of ["plain", "last", "best"]) {
      const image = own(name);
      if (image && image.dataset.iteration !== undefined) {
        candidates.push({ image, at: Number(image.dataset.iteration), frame: false });
      }
    }
    const place = frames ? placeOf(frames.at, wanted) : -1;
    if (place >= 0) candidates.push({ image: sheets[place], at: frames.at[place], frame: true });
    const past = candidates.filter((one) => one.at <= wanted);
    past.sort((one, other) => other.at - one.at || Number(one.frame) - Number(other.frame));
    return past[0] || null;
  }

  function paint(canvas, found) {
    const image = found.image;
    if (!image.complete || !image.naturalWidth) return false;
    const context = canvas.getContext("2d");
    if (found.frame) {
      const column = item % frames.columns;
      const row = Math.floor(item / frames.columns);
      canvas.width = frames.width;
      canvas.height = frames.height;
      context.drawImage(
        image, column * frames.width, row * frames.height, frames.width, frames.height,
        0, 0, frames.width, frames.height,
      );
    } else {
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      context.drawImage(image, 0, 0);
    }
    canvas.classList.toggle("small", canvas.width <= 128);
    return true;
  }

  function showFrame(name, wanted) {
    const frame = root.querySelector(`[data-frame="${name}"]`);
    if (!frame) return;
    const canvas = frame.querySelector("canvas");
    const whole = name === "now" ? null : own(name);
    for (const image of frame.querySelectorAll("img")) image.hidden = image !== whole;
    canvas.hidden = Boolean(whole);
    const found = whole ? null : pictureAt(wanted);
    if (found && paint(canvas, found)) canvas.dataset.iteration = String(found.at);
    else if (!whole) canvas.hidden = true;

    const value = name === "now" ? valueAt(facts.reward, wanted) : edge(facts.reward, name);
    const parts = [];
    if (name === "best" && facts.best[item] !== null) parts.push(`iteration ${facts.best[item]}`);
    if (found && name === "now" && found.at !== wanted) parts.push(`picture of ${found.at}`);
    if (facts.reward && value !== null) parts.push(words(value));
    frame.parentElement.querySelector("[data-caption]").textContent = parts.join(" · ");
  }

  function valueAt(key, wanted) {
    const place = placeOf(facts.at, wanted);
    if (!key || place < 0) return null;
    return pick(facts.rows[key].at[place]);
  }

  function edge(key, name) {
    return key ? pick(facts.rows[key][name]) : null;
  }

  // Costs have one value for all samples.
  function pick(values) {
    const value = values.length === 1 ? values[0] : values[item];
    return value === undefined ? null : value;
  }

  function draw() {
    const place = placeOf(facts.at, iteration);
    const title = root.querySelector("[data-now-title]");
    if (title) title.textContent = `iteration ${iteration}`;
    const first = frames && frames.at.length ? frames.at[0] : 0;
    const best = facts.best[item];
    showFrame("plain", first);
    showFrame("now", iteration);
    showFrame("best", best === null || best === undefined ? facts.last : best);

    for (const row of root.querySelectorAll("[data-row]")) {
      const key = row.dataset.row;
      row.querySelector("[data-plain]").textContent = words(edge(key, "plain"));
      row.querySelector("[data-now]").textContent = words(valueAt(key, iteration));
      row.querySelector("[data-best]").textContent = words(edge(key, "best"));
    }
    for (const chart of root.querySelectorAll("[data-keys]")) {
      const keys = JSON.parse(chart.dataset.keys);
      chart.querySelector("[data-reading]").textContent = reading(keys);
      for (const line of chart.querySelectorAll("[data-sample]")) {
        line.classList.toggle("other", Number(line.dataset.sample) !== item);
      }
    }
    const at = place < 0 ? facts.first : Math.min(iteration, axisLast);
    for (const line of root.querySelectorAll(".cursor")) put(line, at);
    if (best !== null && best !== undefined) {
      for (const line of root.querySelectorAll(".mark")) put(line, best);
    }
  }

  function put(line, at) {
    const x = ((at - facts.first) / Math.max(axisLast - facts.first, 1)) * 1000;
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
  }

  // Of several numbers the least is told, with its name.
  function reading(keys) {
    const known = keys
      .map((key) => ({ name: key.slice(key.indexOf(".") + 1), value: valueAt(key, iteration) }))
      .filter((one) => one.value !== null);
    if (!known.length) return "";
    known.sort((one, other) => one.value - other.value);
    return keys.length > 1 ? `${known[0].name} ${words(known[0].value)}` : words(known[0].value);
  }

  for (const plot of root.querySelectorAll("[data-plot]")) {
    const follow = (event) => {
      const box = plot.querySelector("svg").getBoundingClientRect();
      const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
      if (run.onMove) run.onMove(facts.first + share * (axisLast - facts.first));
    };
    plot.addEventListener("pointerdown", (event) => {
      plot.setPointerCapture(event.pointerId);
      follow(event);
    });
    plot.addEventListener("pointermove", (event) => {
      if (plot.hasPointerCapture(event.pointerId)) follow(event);
    });
  }

  const buttons = [...root.querySelectorAll("[data-choose]")];
  function choose(wanted) {
    item = wanted;
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.choose) === item));
    }
    for (const words_ of root.querySelectorAll("div[data-item]")) {
      words_.hidden = Number(words_.dataset.item) !== item;
    }
    draw();
  }
  for (const button of buttons) {
    button.addEventListener("click", () => choose(Number(button.dataset.choose)));
  }

  // Each button of the chooser has its sample's best picture.
  function drawChooser() {
    const before = item;
    for (const button of buttons) {
      const canvas = button.querySelector("canvas");
      item = Number(button.dataset.choose);
      const best = facts.best[item];
      const whole = own("best");
      const found = whole
        ? { image: whole, frame: false }
        : pictureAt(best === null || best === undefined ? facts.last : best);
      if (canvas && found) paint(canvas, found);
    }
    item = before;
  }

  for (const image of kept) {
    image.classList.toggle("small", image.width <= 128);
    image.addEventListener("load", () => {
      draw();
      drawChooser();
    });
    image.classList.toggle("small", Number(image.getAttribute("width")) <= 128);
  }
  for (const sheet of sheets.slice(-1)) sheet.addEventListener("load", drawChooser);
  drawChooser();

  const copy = root.querySelector("[data-copy]");
  if (copy) {
    copy.addEventListener("click", async () => {
      const code = root.querySelector("[data-command]");
      try {
        await navigator.clipboard.writeText(code.textContent);
        copy.textContent = "Copied";
      } catch {
        // Where a browser has no clipboard for files, the command is marked to be copied by hand.
        getSelection().selectAllChildren(code);
        copy.textContent = "Marked";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1600);
    });
  }

  return run;
}

// A number to four digits, as the page has it elsewhere; a dash for none.
function words(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en-US").replace("-", "−");
  if (size && size < 1e-4) {
    return value.toExponential(3).replace(/\.?0+e/, "e").replace(/e([+-])(\d)$/, "e$10$2");
  }
  return String(Number(value.toPrecision(4))).replace("-", "−");
}
