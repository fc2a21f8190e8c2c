"""Write the dashboards and the alerts anew."""

from grafana.source.files import ROOT, files

for path, text in files().items():
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        print(f"written: {path.relative_to(ROOT)}")
