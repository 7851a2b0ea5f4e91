"use strict";
// The page is whole without this: it shows one step at a time and moves the packet.
(() => {
  const told = JSON.parse(document.getElementById("told").textContent);
  const steps = told.steps;
  const by = (id) => document.getElementById(id);
  const panels = [...document.querySelectorAll("article[data-step]")];
  const lines = [...document.querySelectorAll("li[data-step]")];
  const places = [...document.querySelectorAll("[data-netns]")];
  const [packet, way, trail] = [by("packet"), by("way"), by("trail")];
  const [slider, play, speed] = [by("slider"), by("play"), by("speed")];
  let now = 0;
  let timer = 0;

  const points = (list) => list.map(([x, y]) => `${x},${y}`).join(" ");
  const whole = (track) => steps.filter((step) => step.track === track).flatMap((step) => step.way);

  // The points of a packet's way up to a step; a step that is nowhere in the picture adds none.
  const until = (index) => {
    const from = steps.findIndex((step) => step.track === steps[index].track);
    return steps.slice(from, index + 1).flatMap((step) => step.way);
  };

  const show = (index) => {
    now = Math.max(0, Math.min(steps.length - 1, index));
    const step = steps[now];
    const gone = until(now);
    const at = gone.at(-1) || whole(step.track)[0];
    panels.forEach((panel, number) => panel.classList.toggle("current", number === now));
    lines.forEach((line, number) => {
      line.classList.toggle("current", number === now);
      line.classList.toggle("done", number < now);
    });
    places.forEach((one) => one.classList.toggle("here", one.dataset.netns === step.netns));
    way.setAttribute("points", points(whole(step.track)));
    trail.setAttribute("points", points(gone));
    packet.setAttribute("class", [step.leg, step.fate, step.wrapped ? "wrapped" : ""].join(" "));
    way.setAttribute("class", step.leg);
    trail.setAttribute("class", step.leg);
    packet.toggleAttribute("hidden", !at);
    if (at) packet.style.transform = `translate(${at[0]}px, ${at[1]}px)`;
    slider.value = String(now + 1);
    by("count").textContent = `${now + 1} / ${steps.length}`;
    lines[now].scrollIntoView({ block: "nearest" });
    document.body.className = step.leg;
    document.body.dataset.step = String(now + 1);
    if (location.hash !== `#step=${now + 1}`) history.replaceState(null, "", `#step=${now + 1}`);
  };

  const stop = () => {
    clearTimeout(timer);
    timer = 0;
    play.textContent = "▶ play";
  };
  const next = () => {
    if (now >= steps.length - 1) return stop();
    show(now + 1);
    timer = setTimeout(next, Number(speed.value));
  };
  const toggle = () => {
    if (timer) return stop();
    play.textContent = "❚❚ pause";
    if (now >= steps.length - 1) show(0);
    timer = setTimeout(next, Number(speed.value) / 2);
  };
  const go = (index) => {
    stop();
    show(index);
  };
  const packetOf = (forward) => {
    const track = steps[now].track;
    const first = steps.findIndex((step) => step.track === track);
    const other = steps.findIndex((step) => step.track === (forward ? track + 1 : track - 1));
    if (forward) return other < 0 ? steps.length - 1 : other;
    return now > first || other < 0 ? first : other;
  };

  const keys = {
    ArrowRight: () => go(now + 1),
    ArrowLeft: () => go(now - 1),
    PageDown: () => go(now + 1), // what a presenter's remote control sends
    PageUp: () => go(now - 1),
    ArrowDown: () => go(packetOf(true)),
    ArrowUp: () => go(packetOf(false)),
    Home: () => go(0),
    End: () => go(steps.length - 1),
    " ": toggle,
  };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !keys[event.key]) return;
    if (event.target === speed) return;
    event.preventDefault();
    keys[event.key]();
  });
  const asked = () => Number((/^#step=(\d+)$/.exec(location.hash) || [0, 1])[1]) - 1;
  addEventListener("hashchange", () => asked() !== now && go(asked()));
  slider.addEventListener("input", () => go(Number(slider.value) - 1));
  play.addEventListener("click", toggle);
  for (const [id, act] of [
    ["first", () => go(0)],
    ["back", () => go(now - 1)],
    ["forward", () => go(now + 1)],
    ["last", () => go(steps.length - 1)],
  ]) {
    by(id).addEventListener("click", act);
  }
  document.querySelectorAll("button").forEach((one) =>
    one.addEventListener("keyup", (event) => event.key === " " && event.preventDefault()),
  );
  document.documentElement.classList.add("js");
  if (steps.length) show(asked());
})();
