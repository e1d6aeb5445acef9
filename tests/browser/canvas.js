// Runs inside ComfyUI's page: draws a workflow as tests/workflows/drawing.py lays it out, and says what is wrong with one.
window.hallo3 = {
  draw(drawing) {
    const graph = window.app.rootGraph
    graph.clear()
    window.app.nodeOutputs = {}
    graph.id = drawing.id
    for (const { id, type, title, pos, size, mode, color, models, values } of drawing.nodes) {
      const node = window.LiteGraph.createNode(type)
      if (!node) throw new Error(`there is no node ${type}`)
      node.id = id
      graph.add(node)
      for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find((widget) => widget.name === name)
        if (!widget) throw new Error(`${type} has no widget ${name}`)
        widget.value = value
        widget.callback?.(value)
      }
      for (const widget of node.widgets ?? []) if (widget.name === 'control_after_generate') widget.value = 'fixed'
      if (title) node.title = title
      if (color) node.color = node.bgcolor = color
      if (models.length) node.properties.models = models
      Object.assign(node, { mode })
      node.pos = pos
      node.setSize(size)
    }
    const reroutes = {}
    for (const [from, output, to, input, dots] of drawing.links) {
      const [source, target] = [graph.getNodeById(from), graph.getNodeById(to)]
      const slots = [source.findOutputSlot(output), target.findInputSlot(input)]
      const last = dots.findLast((dot) => reroutes[dot])
      const link = slots.includes(-1) ? null : source.connect(slots[0], target, slots[1], reroutes[last]?.id)
      if (!link) throw new Error(`cannot link ${source.type}.${output} to ${target.type}.${input}`)
      for (const dot of dots) reroutes[dot] ??= graph.createReroute(drawing.dots[dot], link)
    }
    for (const { title, bounding, color } of drawing.groups) {
      const group = new window.LiteGraph.LGraphGroup(title)
      graph.add(group)
      Object.assign(group, { pos: bounding.slice(0, 2), size: bounding.slice(2), color })
    }
    return graph.serialize()
  },
}
