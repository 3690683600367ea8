/* The search runs in a worker, which browsers refuse to a page opened from a folder (file:). There
   an invisible frame takes the worker's place: it runs the script and passes messages on. The
   theme's worker looks for this name to know where it is. */
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.started = new Promise((resolve) => {
        frame.onload = () => {
          const inside = frame.contentWindow;
          inside.importScripts = (...urls) =>
            urls.reduce((before, next) => before.then(() => this.run(inside, next)), Promise.resolve());
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          this.run(inside, url).then(() => resolve(inside));
        };
      });
      document.body.append(frame);
    }

    run(inside, url) {
      return new Promise((resolve, reject) => {
        const script = inside.document.createElement("script");
        script.onload = resolve;
        script.onerror = reject;
        script.src = url;
        inside.document.body.append(script);
      });
    }

    postMessage(data) {
      this.started.then((inside) =>
        inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }
  };
}
