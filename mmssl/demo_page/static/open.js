/** Opening images: the file button, the list of examples, and files dropped on the frame. */

/**
 * @param {function(File)} onFile - called with a file
 * @param {function(string)} onSample - called with the name of an example
 */
export function connectOpening(onFile, onSample) {
  const input = document.getElementById('file');
  const select = document.getElementById('sample');
  const frame = document.getElementById('frame');
  const samples = JSON.parse(document.body.dataset.samples);

  for (const name of samples) {
    select.append(new Option(name.replaceAll('_', ' '), name));
  }
  select.hidden = samples.length === 0;
  select.addEventListener('change', () => {
    if (select.value) {
      onSample(select.value);
    }
  });

  input.addEventListener('change', () => {
    const [file] = input.files;
    if (file) {
      select.value = '';
      onFile(file);
    }
    // the same file may be chosen again
    input.value = '';
  });

  frame.addEventListener('dragover', (event) => {
    event.preventDefault();
    frame.classList.add('drop');
  });
  frame.addEventListener('dragleave', () => frame.classList.remove('drop'));
  frame.addEventListener('drop', (event) => {
    event.preventDefault();
    frame.classList.remove('drop');
    const [file] = event.dataTransfer.files;
    if (file) {
      select.value = '';
      onFile(file);
    }
  });
}
