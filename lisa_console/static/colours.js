// Colours of masks by label, the same as those of ~/overlay (Okabe and Ito's).

const COLOURS = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];

/** [red, green, blue] of a label. */
export function colourOf(label) {
  return COLOURS[(label - 1 + COLOURS.length) % COLOURS.length];
}

/** Paints an element in a label's colour, with readable text on it. */
export function paint(element, label) {
  const [r, g, b] = colourOf(label);
  const linear = (value) => ((value / 255 + 0.055) / 1.055) ** 2.4;
  const luminance = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  element.style.backgroundColor = `rgb(${r} ${g} ${b})`;
  element.style.color = luminance > 0.18 ? "#000" : "#fff";
}
