// What threatens this server, as notifications of JupyterLab: a budget at its end, a stop to come.
//
// A container of module federation, written by hand so that nothing has to be built: JupyterLab
// calls init() with the modules it shares, then get() for the plugin. The hub is asked with the
// token that it gave this page; nobody else's page has it.

"use strict";

(() => {
  const EVERY_SECONDS = 30;
  let shared = {};

  async function use(name) {
    const [offered] = Object.values(shared[name] || {});
    if (!offered) {
      throw new Error(`dcloud-notices: JupyterLab does not share ${name}.`);
    }
    return (await offered.get())();
  }

  // The words of a notice; {at} is its time as the reader's own clock shows it.
  function words(notice) {
    const at = notice.at
      ? new Date(notice.at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
      : "";
    return notice.text.replaceAll("{at}", at);
  }

  class Board {
    constructor(notification) {
      this.notification = notification;
      this.shown = new Map(); // by key: id of the notification, and what it says
    }

    show(notices) {
      for (const notice of notices) {
        const said = words(notice);
        const known = this.shown.get(notice.key);
        if (!known) {
          this.shown.set(notice.key, { said, id: this.emit(notice, said) });
        } else if (known.said !== said) {
          this.notification.update({ id: known.id, message: said, type: notice.level });
          known.said = said;
        }
      }
      const keys = new Set(notices.map((notice) => notice.key));
      for (const [key, { id }] of this.shown) {
        if (!keys.has(key)) { // withdrawn
          this.notification.dismiss(id);
          this.shown.delete(key);
        }
      }
    }

    emit(notice, said) {
      const actions = notice.href
        ? [{ label: notice.label, callback: () => window.open(notice.href, "_blank", "noopener") }]
        : [];
      return this.notification.emit(said, notice.level, { autoClose: false, actions });
    }
  }

  async function ask(config) {
    const hub = config.getOption("hubPrefix");
    const token = config.getToken();
    if (!hub || !token) {
      return null; // not a server of a hub, or somebody else's page
    }
    const query = new URLSearchParams({
      user: config.getOption("hubServerUser"),
      server: config.getOption("hubServerName"),
    });
    const answer = await fetch(`${hub}dcloud/notices?${query}`, {
      headers: { Authorization: `token ${token}` },
      credentials: "omit",
      cache: "no-store",
    });
    return answer.ok ? (await answer.json()).notices : null;
  }

  function follow(config, board) {
    const turn = async () => {
      try {
        const notices = await ask(config);
        if (notices) {
          board.show(notices);
        }
      } catch {
        // The hub is away for a moment; what was said stays.
      }
      setTimeout(turn, EVERY_SECONDS * 1000);
    };
    turn();
  }

  const container = {
    init(scope) {
      shared = scope;
    },
    async get() {
      const [{ Notification }, { PageConfig }] = await Promise.all([
        use("@jupyterlab/apputils"),
        use("@jupyterlab/coreutils"),
      ]);
      const plugin = {
        id: "dcloud-notices:plugin",
        description: "Tells what threatens this server.",
        autoStart: true,
        activate(app) {
          app.restored.then(() => follow(PageConfig, new Board(Notification)));
        },
      };
      return () => ({ __esModule: true, default: plugin });
    },
  };

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB["dcloud-notices"] = container;
})();
