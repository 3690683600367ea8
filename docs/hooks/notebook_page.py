"""Convert a notebook to a page of the site."""

from typing import Any


def notebook_page(notebook: dict[str, Any]) -> str:
    """Return the text of a notebook, with its code, printed text and images."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = "".join(output.get("text", data.get("text/plain", "")))
            if "image/png" in data:
                parts.append(f"![output](data:image/png;base64,{''.join(data['image/png'])})")
            else:
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts)
