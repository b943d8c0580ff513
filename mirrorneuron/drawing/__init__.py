"""Draw the graphs of bundles and jobs: as Mermaid, as DOT, as SVG."""
