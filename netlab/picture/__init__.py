"""The lab as a picture, and a packet's way through it.

    model     what there is to draw, from a Cluster: machines, pods alone or by workload, Services
    services  the Services, and which pods serve them
    layout    where it is drawn: a bus per segment, nodes hanging from it, pods in their nodes
    svg       the layout as an SVG; `paint`: its colours
    mermaid   the model as a mermaid flowchart
    dot       the model for graphviz
    steps     a journey as steps in words, each with its place in the layout; `spots`: that place
    html      the journey as one page that plays it (`page.css`, `page.js`)
    sequence  the journey as a mermaid sequence diagram
    text      what any label may hold, and how wide it is

1. The same lab gives the same picture: nothing depends on chance or on the order of a dictionary.
2. It is readable with 3 nodes and with 30: what there is too much of is counted instead.
3. Names come from users: every form escapes what it prints, and nothing is loaded from anywhere.
"""
