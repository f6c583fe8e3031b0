() => {
  // The board is drawn anew with the answer. Where none comes, a second try is not refused.
  const PATIENCE = 5000;
  const giveBack = (shots) => {
    for (const shot of shots) {
      shot.disabled = false;
      shot.classList.remove("dno-picked");
    }
  };
  // A picture and a key press the hidden button of their number.
  const press = (number) => {
    const shot = document.querySelector(`.dno-shot[data-number="${number}"]`);
    if (!shot || shot.disabled || shot.offsetParent === null) return false;
    const open = [...document.querySelectorAll(".dno-shot:enabled")];
    for (const other of open) other.disabled = true;
    setTimeout(giveBack, PATIENCE, open);
    shot.classList.add("dno-picked");
    document.querySelector(`#pick-${number}`).click();
    return true;
  };
  document.addEventListener("click", (event) => {
    const shot = event.target.closest && event.target.closest(".dno-shot");
    if (shot) press(shot.dataset.number);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (!/^[1-4]$/.test(event.key)) return;
    const at = event.target;
    if (at.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName)) return;
    if (press(event.key)) event.preventDefault();
  });
}
