import { rounded } from "./figures";
import { element } from "./page";

const MOST = 60;
const [WIDTH, HEIGHT, EDGE] = [240, 48, 4];

/** The last times, as bars from left to right. */
export class Spark {
  private readonly times: number[] = [];
  private readonly svg = element("spark", SVGSVGElement);

  /** Show one more. */
  add(milliseconds: number): void {
    this.times.push(milliseconds);
    if (this.times.length > MOST) this.times.shift();
    const highest = Math.max(...this.times);
    this.svg.replaceChildren(...this.times.map((time, at) => bar(at, time / highest)));
    const count = this.times.length;
    const said = `First token of ${count === 1 ? "a request" : `${count} requests`}`;
    const range = `${rounded(Math.min(...this.times))}–${rounded(highest)} ms`;
    element("range", HTMLElement).textContent = `${said}: ${range}`;
    this.svg.setAttribute("aria-label", `${said}: ${range}`);
  }
}

function bar(at: number, share: number): SVGRectElement {
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const step = WIDTH / MOST;
  const height = Math.max(1, share * (HEIGHT - EDGE));
  const places = { x: at * step, y: HEIGHT - height, width: step - 1, height };
  for (const [name, value] of Object.entries(places)) rect.setAttribute(name, value.toFixed(2));
  return rect;
}
