"use strict";
// Heatmaps that say what each cell holds, and tables that sort. Data is in the page; nothing is fetched.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (array, k) => (Array.isArray(array) ? array[k] : array);
  const say = (x) => (x === null || x === undefined ? "no number" : Number(x.toPrecision(5)).toString());
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function colour(share) {
    const steps = data.colours, place = Math.min(Math.max(share, 0), 1) * (steps.length - 1), k = Math.floor(place);
    const [a, b] = [steps[k], steps[Math.min(k + 1, steps.length - 1)]].map((hex) => parseInt(hex.slice(1), 16));
    const mix = [16, 8, 0].map((shift) => {
      const [one, two] = [(a >> shift) & 255, (b >> shift) & 255];
      return Math.round(one + (two - one) * (place - k));
    });
    return `rgb(${mix.join(",")})`;
  }

  class Heatmap {
    constructor(section) {
      this.map = data.maps[Number(section.dataset.map)];
      this.canvas = section.querySelector("canvas");
      this.cell = section.querySelector(".cell");
      this.find = (name) => section.querySelector(`.${name}`);
      this.row = this.col = 0;
      this.active = false;
      for (const hidden of section.querySelectorAll(".needs-script")) hidden.hidden = false;
      this.find("measure").addEventListener("change", () => { this.limits("bounds"); this.tell(); });
      for (const end of ["low", "high"]) this.find(end).addEventListener("input", () => this.draw());
      this.find("bounds").addEventListener("click", () => this.limits("bounds"));
      this.find("own").addEventListener("click", () => this.limits("data"));
      if (this.find("blocks")) this.find("blocks").addEventListener("change", () => this.draw());
      this.canvas.addEventListener("pointermove", (event) => this.point(event));
      this.canvas.addEventListener("pointerdown", (event) => this.point(event));
      this.canvas.addEventListener("focus", () => { this.active = true; this.tell(); this.mark(); });
      this.canvas.addEventListener("blur", () => { this.active = false; this.mark(); });
      this.canvas.addEventListener("keydown", (event) => this.key(event));
      this.limits("bounds");
    }

    get measure() { return this.map.measures[Number(this.find("measure").value)]; }

    limits(which) {
      const [low, high] = this.measure[which];
      this.find("low").value = Number(low.toPrecision(6));
      this.find("high").value = Number(high.toPrecision(6));
      this.draw();
    }

    // Names cut on the left, where layers differ least, to what a length holds.
    cut(pen, name, room) {
      if (pen.measureText(name).width <= room) return name;
      let k = 1;
      while (k < name.length && pen.measureText("…" + name.slice(k)).width > room) k++;
      return "…" + name.slice(k);
    }

    draw() {
      const { map, measure, canvas } = this, rows = map.rows.length, cols = map.cols.length;
      const width = canvas.parentElement.clientWidth || 600, scale = window.devicePixelRatio || 1;
      const pen = canvas.getContext("2d"), font = "11px system-ui, sans-serif";
      pen.font = font;
      const longest = (names) => Math.max(...names.map((name) => pen.measureText(name.slice(-40)).width));
      const left = Math.min(longest(map.rows), width * 0.25, 190) + 30;
      const below = Math.min(longest(map.cols), 150) + 28, right = 64, top = 6;
      const side = Math.min((width - left - right) / cols, 56, Math.max(560 / rows, 1.5));
      const box = { left, top, side, width: side * cols, height: side * rows };
      this.box = box;
      const height = top + box.height + below;
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = `${height}px`;
      pen.setTransform(scale, 0, 0, scale, 0, 0);
      pen.font = font;
      const low = Number(this.find("low").value), high = Number(this.find("high").value), ink = css("--ink");
      for (let i = 0; i < rows; i++) {
        for (let j = 0; j < cols; j++) {
          const value = at(measure.values, i * cols + j), [x, y] = this.corner(i, j);
          if (value === null) { this.hatch(pen, x, y, side); continue; }
          const share = (value - low) / (high - low || 1);
          pen.fillStyle = colour(measure.similarity ? share : 1 - share);
          // Whole pixels: cells meet without seams, however small they are.
          const [x0, y0, x1, y1] = [x, y, x + side, y + side].map((end) => Math.round(end * scale) / scale);
          pen.fillRect(x0, y0, x1 - x0, y1 - y0);
        }
      }
      pen.strokeStyle = pen.fillStyle = ink;
      pen.lineWidth = 1;
      pen.strokeRect(left - 0.5, top - 0.5, box.width + 1, box.height + 1);
      this.names(pen, width);
      this.bar(pen, low, high);
      if (this.find("blocks") && this.find("blocks").checked) {
        for (const [start, stop] of measure.blocks) {
          const [x, y] = this.corner(stop - 1, start), size = (stop - start) * side;
          for (const [shade, wide] of [["#fff", 5], ["#000", 2]]) {
            pen.strokeStyle = shade; pen.lineWidth = wide; pen.strokeRect(x, y, size, size);
          }
        }
      }
      this.base = document.createElement("canvas");
      [this.base.width, this.base.height] = [canvas.width, canvas.height];
      this.base.getContext("2d").drawImage(canvas, 0, 0);
      canvas.dataset.box = JSON.stringify(box);
      this.mark();
    }

    // The frame around the cell that is read; all else is drawn once.
    mark() {
      const pen = this.canvas.getContext("2d"), { side } = this.box;
      pen.save();
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.clearRect(0, 0, this.base.width, this.base.height);
      pen.drawImage(this.base, 0, 0);
      pen.restore();
      if (this.active) {
        const [x, y] = this.corner(this.row, this.col);
        for (const [shade, wide] of [["#fff", 4], ["#0b4fc4", 2]]) {
          pen.strokeStyle = shade; pen.lineWidth = wide; pen.strokeRect(x, y, side, side);
        }
      }
    }

    // The first layers are at the lower left, as in the pictures.
    corner(i, j) {
      const { left, top, side } = this.box;
      return [left + j * side, top + (this.map.rows.length - 1 - i) * side];
    }

    hatch(pen, x, y, side) {
      pen.save();
      pen.beginPath(); pen.rect(x, y, side, side); pen.clip();
      pen.strokeStyle = css("--quiet"); pen.lineWidth = 0.8; pen.beginPath();
      for (let d = -side; d < side; d += 5) { pen.moveTo(x + d, y + side); pen.lineTo(x + d + side, y); }
      pen.stroke(); pen.restore();
    }

    names(pen, width) {
      const { left, top, side, height } = this.box, { rows, cols, rowModel, colModel } = this.map;
      const step = Math.max(1, Math.ceil(12 / side));
      pen.textBaseline = "middle"; pen.textAlign = "right";
      for (let i = 0; i < rows.length; i += step) {
        pen.fillText(this.cut(pen, rows[i], left - 28), left - 5, this.corner(i, 0)[1] + side / 2);
      }
      const turned = (x, y, text, align) => {
        pen.save(); pen.translate(x, y); pen.rotate(-Math.PI / 2); pen.textAlign = align; pen.fillText(text, 0, 0); pen.restore();
      };
      for (let j = 0; j < cols.length; j += step) {
        turned(left + (j + 0.5) * side, top + height + 5, this.cut(pen, cols[j], 150), "right");
      }
      pen.font = "12px system-ui, sans-serif";
      turned(9, top + height / 2, this.cut(pen, rowModel, height), "center");
      pen.textAlign = "center";
      pen.fillText(this.cut(pen, colModel, width - left), left + this.box.width / 2, top + height + (this.canvas.height / (window.devicePixelRatio || 1) - top - height) - 8);
      pen.font = "11px system-ui, sans-serif";
    }

    bar(pen, low, high) {
      const { left, top, width, height } = this.box, x = left + width + 12;
      const tall = Math.max(Math.min(height, 240), 40);
      for (let k = 0; k < tall; k++) {
        const share = 1 - k / tall;
        pen.fillStyle = colour(this.measure.similarity ? share : 1 - share);
        pen.fillRect(x, top + k, 10, 1.5);
      }
      pen.fillStyle = css("--ink"); pen.textAlign = "left";
      for (const [value, y] of [[high, top + 6], [(low + high) / 2, top + tall / 2], [low, top + tall - 6]]) {
        pen.fillText(Number(value.toPrecision(3)).toString(), x + 13, y);
      }
    }

    point(event) {
      const spot = this.canvas.getBoundingClientRect(), { left, top, side } = this.box;
      const col = Math.floor((event.clientX - spot.left - left) / side);
      const row = this.map.rows.length - 1 - Math.floor((event.clientY - spot.top - top) / side);
      if (col < 0 || row < 0 || col >= this.map.cols.length || row >= this.map.rows.length) return;
      const moved = row !== this.row || col !== this.col || !this.active;
      [this.row, this.col, this.active] = [row, col, true];
      if (moved) { this.tell(); this.mark(); }
    }

    key(event) {
      const moves = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
      const last = [this.map.rows.length - 1, this.map.cols.length - 1];
      if (event.key in moves) {
        this.row = Math.min(Math.max(this.row + moves[event.key][0], 0), last[0]);
        this.col = Math.min(Math.max(this.col + moves[event.key][1], 0), last[1]);
      } else if (event.key === "Home") { this.row = this.col = 0; }
      else if (event.key === "End") { [this.row, this.col] = last; }
      else return;
      event.preventDefault();
      this.active = true;
      this.tell(); this.mark();
    }

    tell() {
      const { map, measure } = this, k = this.row * map.cols.length + this.col, value = at(measure.values, k);
      const parts = [`${map.rowModel} ${map.rows[this.row]} × ${map.colModel} ${map.cols[this.col]}`];
      const beside = [`${measure.title}: ${say(value)}`];
      if (value === null) beside.push(measure.reasons.texts[measure.reasons.cells[k]] || "");
      for (const [key, detail] of Object.entries(measure.beside)) {
        const number = at(detail.values, k);
        if (number === null || value === null) continue;
        if (key === "ci_high") beside[beside.length - 1] += ` ${detail.says} ${say(number)}`;
        else beside.push(`${detail.says} ${say(number)}`);
      }
      this.cell.textContent = `${parts[0]}\n${beside.filter(Boolean).join("; ")}`;
      this.cell.dataset.row = this.row; this.cell.dataset.col = this.col;
    }
  }

  const maps = [...document.querySelectorAll("section.map")].map((section) => new Heatmap(section));
  const redraw = () => { for (const map of maps) map.draw(); };
  window.addEventListener("resize", redraw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
    redraw();
  });

  for (const button of document.querySelectorAll("button.sort")) {
    button.addEventListener("click", () => {
      const head = button.parentElement, column = [...head.parentElement.children].indexOf(head);
      const down = head.getAttribute("aria-sort") === "ascending", body = head.closest("table").tBodies[0];
      const key = (row) => row.cells[column].textContent;
      const rows = [...body.rows].sort((one, two) => {
        const [a, b] = [key(one), key(two)], empty = (b === "") - (a === "");
        if (empty) return -empty; // rows without a number stay last
        const numbers = a - b, order = Number.isNaN(numbers) ? a.localeCompare(b, "en", { numeric: true }) : numbers;
        return down ? -order : order;
      });
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    });
  }
})();
