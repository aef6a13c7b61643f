// The node's live parameters as a form.

/** Fills the form. A control that a person is in keeps what they type. */
export function fillOptions(form, options, onSet) {
  const rows = options.map(({ name, value, description, least, most }) => {
    const label = document.createElement("label");
    const words = document.createElement("span");
    words.textContent = name;
    const input = document.createElement("input");
    input.name = name;
    if (typeof value === "boolean") {
      input.type = "checkbox";
      input.checked = value;
      input.onchange = () => onSet(name, input.checked);
    } else {
      input.type = typeof value === "number" ? "number" : "text";
      input.value = value;
      if (typeof value === "number") Object.assign(input, { min: least ?? "", max: most ?? "", step: "any" });
      input.onchange = () => onSet(name, typeof value === "number" ? Number(input.value) : input.value);
    }
    if (form.elements[name] === document.activeElement && document.activeElement !== document.body) {
      input.value = document.activeElement.value;
    }
    label.append(words, input);
    const help = document.createElement("p");
    help.textContent = description;
    const row = document.createElement("div");
    row.append(label, help);
    return row;
  });
  const focused = form.contains(document.activeElement) ? document.activeElement.name : "";
  form.replaceChildren(...rows);
  if (focused) form.elements[focused]?.focus();
  form.onsubmit = (event) => event.preventDefault();
}
