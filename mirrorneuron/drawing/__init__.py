"""Graphs of bundles and jobs as text (Mermaid, DOT) and as SVG."""
