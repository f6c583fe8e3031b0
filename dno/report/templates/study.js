"use strict";
// Orders and filters the items of a study; the orders themselves come with the page.
(() => {
  const orders = JSON.parse(document.querySelector("[data-study]").textContent);
  const grid = document.querySelector("[data-cards]");

  if (grid) {
    const cards = [...grid.children].map((root) => ({
      root,
      words: root.querySelector("[data-words]").textContent.toLowerCase(),
      told: [...root.querySelectorAll("[data-told]")],
    }));
    const sort = document.querySelector("[data-sort]");
    const turn = document.querySelector("[data-turn]");
    const filter = document.querySelector("[data-filter]");
    const count = document.querySelector("[data-count]");
    const nothing = document.querySelector("[data-nothing]");
    let turned = false;

    function order() {
      const wanted = orders[sort.value];
      const first = wanted.places.slice(0, wanted.known);
      if (turned) first.reverse();
      // What has no number stays last either way.
      const places = [...first, ...wanted.places.slice(wanted.known)];
      grid.append(...places.map((place) => cards[place].root));
      if (wanted.reward !== null) {
        for (const card of cards) {
          card.told.forEach((one, i) => { one.hidden = i !== wanted.reward; });
        }
      }
      turn.textContent = wanted.ways[turned ? 1 : 0];
      turn.setAttribute("aria-pressed", String(turned));
    }

    function choose() {
      const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let found = 0;
      for (const card of cards) {
        const fits = wanted.every((word) => card.words.includes(word));
        card.root.hidden = !fits;
        if (fits) found += 1;
      }
      count.textContent = found === cards.length ? `${found}` : `${found} of ${cards.length}`;
      nothing.hidden = found > 0;
    }

    sort.addEventListener("change", () => {
      turned = false;
      order();
    });
    turn.addEventListener("click", () => {
      turned = !turned;
      order();
    });
    filter.addEventListener("input", choose);
    // A browser may bring back what was typed before the page was loaded again.
    order();
    choose();
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
})();
