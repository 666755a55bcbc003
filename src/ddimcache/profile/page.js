"use strict";
// Names come from a bundle that nobody vouches for: they only ever become text, never markup.
(() => {
  const profile = JSON.parse(document.getElementById("profile").textContent);
  const peak = profile.peaks.gflops[profile.dtype] || profile.peaks.gflops.float32;
  const find = (id) => document.getElementById(id);
  const hint = find("hint");

  function element(name, parent, text, className) {
    const made = parent.namespaceURI.endsWith("svg")
      ? document.createElementNS(parent.namespaceURI, name) : document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.setAttribute("class", className);
    parent.append(made);
    return made;
  }
  function shape(name, parent, attributes, className, text) {
    const made = element(name, parent, text, className);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }
  const digits = (value, count = 3) => value === 0 ? "0"
    : Number(value.toPrecision(count)).toLocaleString("en", {maximumSignificantDigits: count});
  const rate = (value) => value === null ? "–" : digits(value);
  const percent = (value) => value === null ? "–" : `${(100 * value).toFixed(1)} %`;
  const time = (seconds) => seconds >= 1 ? `${digits(seconds)} s`
    : seconds >= 1e-3 ? `${digits(seconds * 1e3)} ms` : `${digits(seconds * 1e6)} µs`;
  const size = (bytes) => bytes >= 1e9 ? `${digits(bytes / 1e9)} GB`
    : bytes >= 1e6 ? `${digits(bytes / 1e6)} MB` : `${digits(bytes / 1e3)} KB`;

  function explain(node, text) {
    const show = (event) => {
      hint.textContent = text();
      hint.hidden = false;
      const left = Math.min(event.clientX + 14, innerWidth - hint.offsetWidth - 8);
      const above = event.clientY + 14 + hint.offsetHeight > innerHeight;
      hint.style.left = `${Math.max(4, left)}px`;
      hint.style.top = `${above ? event.clientY - 14 - hint.offsetHeight : event.clientY + 14}px`;
    };
    node.addEventListener("pointermove", show);
    node.addEventListener("pointerleave", () => { hint.hidden = true; });
  }

  function heading() {
    find("title").textContent = `${profile.model} on ${profile.device}`;
    find("what").textContent =
      `${profile.device_name}, driver ${profile.driver}; weights ${profile.weights}, ` +
      `${profile.size[0]}×${profile.size[1]}, batch ${profile.batch}, cut ${profile.cut}; ` +
      `${profile.steps} steps (${profile.full_steps} full, ${profile.cached_steps} cached), ` +
      `${profile.unet_calls_a_step} UNet call${profile.unet_calls_a_step > 1 ? "s" : ""} a step; ` +
      `“${profile.prompt}”`;
    const seconds = profile.seconds;
    const numbers = [
      ["on the device", time(seconds.total)], ["in kernels", time(seconds.kernels)],
      ["in copies", time(seconds.copies)],
      ["idle", `${time(seconds.idle)}, ${percent(seconds.idle / seconds.total)}`],
      ["idle inside calls", time(seconds.idle_in_calls)],
      ["peak, arithmetic", `${digits(peak)} GFLOP/s ${profile.dtype}`],
      ["peak, memory", `${digits(profile.peaks.gbytes)} GB/s`],
      ["most memory", size(profile.peak_bytes)],
    ];
    for (const entry of profile.functions.filter((one) => one.launches > 1)) {
      numbers.push([`${entry.function}, a call`, time(entry.seconds_call)]);
    }
    for (const [name, value] of numbers) {
      const pair = element("div", find("numbers"));
      element("dt", pair, name);
      element("dd", pair, value);
    }
  }

  function describe(kernel) {
    return `${kernel.name}\n${kernel.component}, ${kernel.calls} calls, ${time(kernel.seconds)}, ` +
      `${percent(kernel.share)}\n${rate(kernel.gflops)} GFLOP/s, ${rate(kernel.gbytes)} GB/s, ` +
      `${percent(kernel.roofline)} of the roofline (${kernel.limit})\n` +
      kernel.layers.slice(0, 3).join("\n") +
      (kernel.layers.length > 3 ? `\nand ${kernel.layers.length - 3} more layers` : "");
  }

  function roofline() {
    const svg = find("roofline");
    const [width, height, left, bottom, top, right] = [1150, 420, 56, 40, 14, 20];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const dots = profile.kernels.filter((kernel) => kernel.flops > 0 && kernel.seconds > 0 && kernel.bytes > 0)
      .map((kernel) => ({kernel, x: kernel.flops / kernel.bytes, y: kernel.gflops}));
    const ridge = peak / profile.peaks.gbytes;
    const bounds = (values) => [Math.floor(Math.log10(Math.min(...values))), Math.ceil(Math.log10(Math.max(...values)))];
    const [x0, x1] = bounds([...dots.map((dot) => dot.x), ridge, ridge * 10]);
    const [y0, y1] = bounds([...dots.map((dot) => dot.y), peak, peak / 100]);
    const x = (value) => left + (Math.log10(value) - x0) / (x1 - x0) * (width - left - right);
    const y = (value) => height - bottom - (Math.log10(value) - y0) / (y1 - y0) * (height - bottom - top);
    const power = (exponent) => exponent >= 0 ? String(10 ** exponent) : (10 ** exponent).toFixed(-exponent);
    for (let exponent = x0; exponent <= x1; exponent++) {
      shape("line", svg, {x1: x(10 ** exponent), x2: x(10 ** exponent), y1: top, y2: height - bottom}, "axis");
      shape("text", svg, {x: x(10 ** exponent), y: height - bottom + 14, "text-anchor": "middle"}, "tick", power(exponent));
    }
    for (let exponent = y0; exponent <= y1; exponent++) {
      shape("line", svg, {x1: left, x2: width - right, y1: y(10 ** exponent), y2: y(10 ** exponent)}, "axis");
      shape("text", svg, {x: left - 6, y: y(10 ** exponent) + 4, "text-anchor": "end"}, "tick", power(exponent));
    }
    shape("text", svg, {x: width - right, y: height - 8, "text-anchor": "end"}, "tick", "operations a byte");
    shape("text", svg, {x: 8, y: 11}, "tick", "GFLOP/s");
    const from = Math.max(10 ** x0, 10 ** y0 / profile.peaks.gbytes);
    shape("path", svg, {d: `M${x(from)},${y(from * profile.peaks.gbytes)} L${x(ridge)},${y(peak)} L${x(10 ** x1)},${y(peak)}`}, "roof");
    shape("text", svg, {x: x(10 ** x1) - 4, y: y(peak) - 5, "text-anchor": "end"}, "", `${digits(peak)} GFLOP/s`);
    shape("text", svg, {x: x(from) + 8, y: y(from * profile.peaks.gbytes) - 8}, "", `${digits(profile.peaks.gbytes)} GB/s`);
    dots.sort((one, other) => other.kernel.share - one.kernel.share);
    for (const dot of dots) {
      const radius = Math.max(2.5, 60 * Math.sqrt(dot.kernel.share));
      const circle = shape("circle", svg, {cx: x(dot.x), cy: y(dot.y), r: radius}, `dot ${dot.kernel.limit}`);
      explain(circle, () => describe(dot.kernel));
    }
    const labels = [];
    for (const dot of dots.slice(0, 6)) {
      const name = dot.kernel.name.length > 34 ? `${dot.kernel.name.slice(0, 33)}…` : dot.kernel.name;
      const at = {x: x(dot.x), y: y(dot.y) + 4};
      while (labels.some((label) => Math.abs(label.x - at.x) < 200 && Math.abs(label.y - at.y) < 12)) at.y += 4;
      labels.push(at);
      shape("text", svg, {...at, "text-anchor": "middle"}, "", name);
    }
  }

  function layerTree() {
    const root = {name: profile.model, seconds: 0, calls: 0, parts: new Map(), parent: null, depth: 0};
    for (const row of profile.layers) {
      let node = root;
      const parts = [row.component, ...row.layer.split("."), row.kernel];
      node.seconds += row.seconds;
      parts.forEach((part, index) => {
        const isKernel = index === parts.length - 1;
        const key = isKernel ? ` ${part}` : part;  // a layer and a kernel may have one name
        if (!node.parts.has(key)) {
          node.parts.set(key, {name: part, seconds: 0, calls: 0, parts: new Map(), parent: node, depth: node.depth + 1, isKernel});
        }
        node = node.parts.get(key);
        node.seconds += row.seconds;
        node.calls += row.calls;
      });
    }
    return root;
  }

  function flame() {
    const svg = find("flame");
    const root = layerTree();
    const [width, row] = [1150, 19];
    const depthOf = (node) => Math.max(0, ...[...node.parts.values()].map((part) => 1 + depthOf(part)));
    const pathOf = (node) => node.parent === null ? [node.name] : [...pathOf(node.parent), node.name];
    function draw(focus) {
      svg.replaceChildren();
      hint.hidden = true;
      find("path").textContent = pathOf(focus).join(" › ") + `: ${time(focus.seconds)}, ${percent(focus.seconds / root.seconds)}`;
      const above = [];
      for (let node = focus.parent; node; node = node.parent) above.unshift(node);
      const rows = above.length + 1 + depthOf(focus);
      svg.setAttribute("viewBox", `0 0 ${width} ${rows * row + 2}`);
      const cell = (node, left, span, depth) => {
        if (span < 0.7) return;
        const box = shape("rect", svg, {x: left, y: depth * row + 1, width: span, height: row - 1},
          `cell${node.isKernel ? " kernel" : ""}`);
        // One hue a component, lighter inwards; set as a property, which the policy of the page allows.
        box.style.fill = colour(node);
        explain(box, () => `${pathOf(node).slice(1).join(" › ") || node.name}\n${time(node.seconds)}, ` +
          `${percent(node.seconds / root.seconds)} of all` + (node.isKernel ? `, ${node.calls} calls` : ""));
        if (!node.isKernel) box.addEventListener("click", () => draw(node === focus && node.parent ? node.parent : node));
        const letters = Math.floor((span - 6) / 6.2);
        if (letters >= 3) {
          const text = node.name.length > letters ? `${node.name.slice(0, letters - 1)}…` : node.name;
          shape("text", svg, {x: left + 4, y: depth * row + 14}, "", text);
        }
      };
      above.forEach((node, depth) => cell(node, 0, width, depth));
      (function place(node, left, span, depth) {
        if (span < 0.7) return;
        cell(node, left, span, depth);
        let at = left;
        for (const part of node.parts.values()) {
          const its = node.seconds ? span * part.seconds / node.seconds : 0;
          place(part, at, its, depth + 1);
          at += its;
        }
      })(focus, 0, width, above.length);
    }
    const hues = new Map();
    function colour(node) {
      if (node.parent === null) return "hsl(215 12% 60% / 0.5)";
      let top = node;
      while (top.depth > 1) top = top.parent;
      if (!hues.has(top)) hues.set(top, [205, 28, 140, 280][hues.size % 4]);
      let sum = 0;
      for (const letter of node.name) sum = (sum * 31 + letter.charCodeAt(0)) % 997;
      return `hsl(${hues.get(top) + sum % 36 - 18} 60% ${node.isKernel ? 62 : 52}% / ${node.isKernel ? 0.45 : 0.65})`;
    }
    draw(root);
  }

  function table() {
    const columns = [
      ["kernel", (kernel) => kernel.name, null, "text long"],
      ["component", (kernel) => kernel.component, null, "text"],
      ["calls", (kernel) => kernel.calls, String],
      ["time", (kernel) => kernel.seconds, time],
      ["share", (kernel) => kernel.share, percent],
      ["a call", (kernel) => kernel.seconds / kernel.calls, time],
      ["GFLOP/s", (kernel) => kernel.gflops, rate],
      ["GB/s", (kernel) => kernel.gbytes, rate],
      ["of roofline", (kernel) => kernel.roofline, percent],
      ["limit", (kernel) => kernel.limit, null, "text"],
      ["layers", (kernel) => kernel.layers.length > 1
        ? `${kernel.layers[0]} and ${kernel.layers.length - 1} more` : kernel.layers[0], null, "text long"],
    ];
    const head = find("kernels").tHead.rows[0];
    const body = find("kernels").tBodies[0];
    const rows = profile.kernels.map((kernel) => {
      const line = document.createElement("tr");
      for (const [, value, text, className] of columns) {
        const cell = element("td", line, text ? text(value(kernel)) : value(kernel), className);
        if (className && className.includes("long")) cell.title = cell.textContent;
      }
      return {kernel, line, search: `${kernel.name} ${kernel.component} ${kernel.layers.join(" ")}`.toLowerCase()};
    });
    function sort(index, ascending) {
      const value = columns[index][1];
      const compare = (one, other) => typeof one === "string" ? one.localeCompare(other)
        : (one ?? -1) - (other ?? -1);
      rows.sort((one, other) => (ascending ? 1 : -1) * compare(value(one.kernel), value(other.kernel)));
      [...head.cells].forEach((cell, number) => {
        if (number === index) cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        else cell.removeAttribute("aria-sort");
      });
      body.replaceChildren(...rows.map((row) => row.line));
    }
    columns.forEach(([name, , , className], index) => {
      const cell = element("th", head, undefined, className);
      cell.scope = "col";
      const button = element("button", cell, name);
      button.type = "button";
      button.addEventListener("click", () => {
        const now = cell.getAttribute("aria-sort");
        sort(index, now ? now === "descending" : Boolean(className));
      });
    });
    function filter() {
      const wanted = find("filter").value.toLowerCase();
      let shown = 0;
      let seconds = 0;
      for (const row of rows) {
        row.line.hidden = !row.search.includes(wanted);
        if (!row.line.hidden) { shown += 1; seconds += row.kernel.seconds; }
      }
      find("shown").textContent = `${shown} of ${rows.length} kernels, ${time(seconds)}`;
    }
    find("filter").addEventListener("input", filter);
    sort(3, false);
    filter();
  }

  heading();
  roofline();
  flame();
  table();
  document.documentElement.dataset.ready = "yes";
})();
