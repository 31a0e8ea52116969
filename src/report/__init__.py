"""From saved runs to ``results.json`` and a self-contained ``report.html``. No torch, no vLLM."""
