// Takes pictures that are pasted with Ctrl-V or dropped, anywhere on the page. gradio takes them on its own field alone,
// drops the picture that is there for a dropped one before it has read that, and says nothing of what it cannot use.
() => {
  const say = (text) => {
    const node = document.querySelector("#view .error");
    node.textContent = text;
    node.hidden = !text;
  };
  const isPicture = (file) => file.type.startsWith("image/");

  // A drop that is made here keeps its files until gradio has read them; a browser's is empty once its event is over.
  function take(files, absent) {
    const [file] = [...files].filter(isPicture);
    if (!file) return say(files.length ? `${files[0].name}: is not an image of a format that browsers know` : absent);
    say("");
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(file);
    const field = document.querySelector("#picture .image-container > .upload-container");
    field.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer }));
  }

  document.addEventListener("paste", (event) => {
    const { files, types } = event.clipboardData;
    // What is copied from a document is often text and a drawing of it.
    const isText = event.target.closest("input, textarea") && types.includes("text/plain");
    if (isText || !files.length) return;
    event.preventDefault();
    take(files);
  });

  addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) event.preventDefault();
  });
  addEventListener(
    "drop",
    (event) => {
      if (!event.isTrusted || !event.dataTransfer.files.length) return;
      event.preventDefault();
      event.stopPropagation();
      take(event.dataTransfer.files);
    },
    true,
  );

  addEventListener(
    "click",
    (event) => {
      if (!event.target.closest("#picture button[aria-label='Paste from clipboard']")) return;
      event.stopPropagation();
      read().catch((error) => say(`the browser does not give what is on the clipboard (${error.message}); press Ctrl-V`));
    },
    true,
  );
  async function read() {
    const files = [];
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find((one) => one.startsWith("image/"));
      if (type) files.push(new File([await item.getType(type)], `clipboard.${type.slice("image/".length)}`, { type }));
    }
    take(files, "there is no picture on the clipboard; copy one, then press Ctrl-V or this button again");
  }
};
