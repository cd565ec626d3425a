import type { Extra } from "./infill";

/** The files that the page begins with: the first is typed in, the second is its context. */
export const SAMPLE: Extra[] = [
  {
    filename: "main.py",
    text: `from shapes import Circle, Rectangle


def total_area(shapes):
    """Return the sum of the areas of all shapes."""
    `,
  },
  {
    filename: "shapes.py",
    text: `import math


class Rectangle:
    def __init__(self, width, height):
        self.width = width
        self.height = height

    def area(self):
        return self.width * self.height


class Circle:
    def __init__(self, radius):
        self.radius = radius

    def area(self):
        return math.pi * self.radius ** 2
`,
  },
];
