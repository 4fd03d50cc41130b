"""The pages behind thumb links, and the script for pages of others. Pure, and without detail.

No script, nothing from elsewhere, no referrer: a link in a mail is opened by
whoever scans it, and tells nobody where it was opened from.
"""

import base64
import hashlib
from html import escape

_STYLE = """
body{font:18px/1.5 system-ui,sans-serif;color:#1d2733;background:#f5f6f8;margin:0;
display:grid;place-items:center;min-height:100vh}
main{background:#fff;border:1px solid #dde1e7;border-radius:12px;padding:32px 40px;
text-align:center;max-width:26em}
h1{font-size:20px;margin:0 0 20px}p{margin:0;color:#566273}
form{display:inline-block;margin:0 6px}
button{font:inherit;padding:12px 22px;border:1px solid #c4cad3;border-radius:8px;
background:#fff;color:inherit;cursor:pointer}
button:hover{background:#eef1f5}button:focus-visible{outline:3px solid #5b8def}
@media(prefers-color-scheme:dark){body{color:#e8ebf0;background:#14181d}
main,button{background:#1d2329;border-color:#3a434e}button:hover{background:#28303a}
p{color:#a3adba}}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_HASH}';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-robots-tag": "noindex, nofollow",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}

# Elements with `data-ratchet-token` get two buttons. `data-up` and `data-down` are their values.
_SCRIPT = """\
(() => {
  const base = new URL("./", document.currentScript.src);
  const show = (box) => {
    if (box.ratchet) return;
    box.ratchet = true;
    const { ratchetToken: token, up = "1", down = "-1" } = box.dataset;
    const status = document.createElement("span");
    status.setAttribute("role", "status");
    const buttons = [["Good answer", up, 0], ["Bad answer", down, 180]].map(
      ([label, value, turn]) => {
        const button = document.createElement("button");
        button.type = "button";
        button.ariaLabel = button.title = label;
        const make = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
        const svg = make("svg"), path = make("path");
        svg.setAttribute("viewBox", "0 0 24 24");
        svg.setAttribute("width", "20");
        path.setAttribute("fill", "currentColor");
        path.setAttribute("transform", `rotate(${turn} 12 12)`);
        path.setAttribute("d", "M3 10h4v11H3zM9 21V10l4-8c2 0 3 1 3 3l-1 4h6l-2 12z");
        svg.append(path);
        button.append(svg);
        button.onclick = async () => {
          let isTaken = false;
          try {
            const answer = await fetch(new URL(token, base), {
              method: "POST",
              body: new URLSearchParams({ v: value }),
              headers: { accept: "application/json" },
              credentials: "omit",
              referrerPolicy: "no-referrer",
            });
            isTaken = answer.ok;
          } catch {}
          for (const one of buttons) {
            one.ariaPressed = isTaken && one === button;
            one.style.opacity = one === button ? "" : "0.4";
          }
          status.textContent = isTaken ? " Thank you" : " That did not work";
          box.dispatchEvent(new CustomEvent("ratchet", { detail: { value, isTaken } }));
        };
        return button;
      }
    );
    box.append(...buttons, status);
  };
  const all = () => document.querySelectorAll("[data-ratchet-token]").forEach(show);
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", all);
  else all();
})();
"""
# Without its indentation: whoever reads a page waits for it.
SCRIPT = "\n".join(line.strip() for line in _SCRIPT.splitlines())


def ask(token: str, values: list[tuple[str, str]]) -> str:
    """One button for each value (`text in the link`, `what stands on it`).

    Where the form leads is said relative to the page: a proxy may have put it below a path.
    """
    forms = "".join(
        f'<form method="post" action="{escape(token)}">'
        f'<input type="hidden" name="v" value="{escape(value)}">'
        f"<button>{escape(label)}</button></form>"
        for value, label in values
    )
    return _page("Was this answer good?", forms)


def thank() -> str:
    """The vote is kept."""
    return _page("Thank you", "<p>Your vote was recorded. You may close this page.</p>")


def sorry(text: str) -> str:
    """It is not."""
    return _page(text, "")


def label_of(value: object, written: str) -> str:
    """What stands on a button."""
    if isinstance(value, bool | int | float) and value in (1, -1, False):
        return "Yes" if value == 1 else "No"
    return written


def _page(title: str, content: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="robots" content="noindex"><title>Feedback</title>'
        f"<style>{_STYLE}</style></head><body><main><h1>{escape(title)}</h1>{content}"
        "</main></body></html>"
    )
