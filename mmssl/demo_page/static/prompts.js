/** The kinds of clicks and the masks to choose from, which two pages share. */

const PLACES = 3;

/** The chosen kind of click. */
export function mode() {
  return document.querySelector('input[name="mode"]:checked').value;
}

/** Choose the next kind of click. */
export function nextMode() {
  const inputs = [...document.querySelectorAll('input[name="mode"]')];
  const index = inputs.findIndex((input) => input.checked);
  inputs[(index + 1) % inputs.length].click();
}

/**
 * Show the masks of the prompts, best first, in three places that are always there.
 * @param {Array<{rank: string, area: string, quality: string}>} masks
 * @param {number} chosen
 * @param {function(number)} onChoose
 */
export function showMasks(masks, chosen, onChoose) {
  const fieldset = document.getElementById('masks');
  const hadFocus = fieldset.contains(document.activeElement);
  const legend = fieldset.querySelector('legend');
  const labels = [];
  for (let index = 0; index < PLACES; index += 1) {
    labels.push(index < masks.length ? choice(masks[index], index, index === chosen, onChoose) : emptyPlace());
  }
  fieldset.replaceChildren(legend, ...labels);
  if (hadFocus) {
    fieldset.querySelector('input:checked')?.focus();
  }
}

function choice({rank, area, quality}, index, isChosen, onChoose) {
  const label = document.createElement('label');
  const input = document.createElement('input');
  input.type = 'radio';
  input.name = 'mask';
  input.value = index;
  input.checked = isChosen;
  input.addEventListener('change', () => onChoose(index));
  const text = document.createElement('span');
  text.append(rank, small(area), small(quality));
  label.append(input, text);
  return label;
}

function emptyPlace() {
  const label = document.createElement('label');
  const text = document.createElement('span');
  text.className = 'none';
  text.setAttribute('aria-hidden', 'true');
  label.append(text);
  return label;
}

function small(text) {
  const element = document.createElement('small');
  element.textContent = text;
  return element;
}

/** Connect the buttons that zoom. */
export function connectZoom(picture) {
  document.getElementById('zoom-in').addEventListener('click', () => picture.zoomIn());
  document.getElementById('zoom-out').addEventListener('click', () => picture.zoomOut());
  document.getElementById('whole')?.addEventListener('click', () => picture.wholeImage());
}

/** The keys that zoom, for connectKeys(). */
export function zoomKeys(picture) {
  return {
    '+': () => picture.zoomIn(),
    '=': () => picture.zoomIn(),
    '-': () => picture.zoomOut(),
    0: () => picture.wholeImage(),
  };
}

/**
 * Call functions for keys that are pressed outside of text fields.
 * @param {Object<string, function(KeyboardEvent)>} actions - by the lower-case name of the key
 */
export function connectKeys(actions) {
  document.addEventListener('keydown', (event) => {
    const undo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'z';
    if (!undo && (event.ctrlKey || event.metaKey || event.altKey)) {
      return;
    }
    const {target} = event;
    if (target.matches('input[type="text"], select, textarea')) {
      return;
    }
    const onControl = target.closest('button, a, summary, label, input');
    if (onControl && (event.key === 'Enter' || event.key === ' ')) {
      return;
    }
    const action = actions[event.key.toLowerCase()];
    if (action) {
      event.preventDefault();
      action(event);
    }
  });
}
