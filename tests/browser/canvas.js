// Runs inside ComfyUI's page: draws a workflow as tools/workflows/drawing.py lays it out, and says what is wrong with one.
window.hallo3 = {
  draw(drawing) {
    const graph = window.app.rootGraph
    graph.clear()
    window.app.nodeOutputs = {}
    graph.id = drawing.id
    for (const block of drawing.blocks) this.define(block)
    this.fill(graph, drawing)
    const workflow = this.save()
    for (const { id, type, values } of drawing.nodes) {
      const block = drawing.blocks.find((block) => block.id === type)
      if (block) this.furnish(workflow.nodes.find((node) => node.id === id), block, values)
    }
    if (drawing.app.length) {
      const last = drawing.app.at(-1)
      workflow.extra = { ...workflow.extra, linearMode: true }
      workflow.extra.linearData = { inputs: drawing.app.slice(0, -1), outputs: [last[0]] }
    }
    return workflow
  },

  // Puts nodes, links with their reroutes, and groups into a graph.
  fill(graph, { nodes, links, dots, groups }) {
    for (const { id, type, title, pos, size, mode, color, models, values } of nodes) {
      const node = window.LiteGraph.createNode(type)
      if (!node) throw new Error(`there is no node ${type}`)
      node.id = id
      graph.add(node)
      if (!node.isSubgraphNode())
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
    for (const [from, output, to, input, path] of links) {
      const [source, target] = [graph.getNodeById(from), graph.getNodeById(to)]
      const slots = [source.findOutputSlot(output), target.findInputSlot(input)]
      const last = path.findLast((dot) => reroutes[dot])
      const link = slots.includes(-1) ? null : source.connect(slots[0], target, slots[1], reroutes[last]?.id)
      if (!link) throw new Error(`cannot link ${source.type}.${output} to ${target.type}.${input}`)
      for (const dot of path) reroutes[dot] ??= graph.createReroute(dots[dot], link)
    }
    for (const { title, bounding, color } of groups) {
      const group = new window.LiteGraph.LGraphGroup(title)
      graph.add(group)
      Object.assign(group, { pos: bounding.slice(0, 2), size: bounding.slice(2), color })
    }
  },

  // Makes a subgraph of a drawing: its inputs and outputs in their order, each beside the nodes that it joins.
  define(block) {
    const root = window.app.rootGraph
    const empty = { nodes: [], links: [], inputs: [], outputs: [], widgets: [], groups: [], reroutes: [], config: {}, extra: {} }
    const side = (id) => ({ id, bounding: [0, 0, 128, 100] })
    const state = { lastGroupId: 0, lastNodeId: 0, lastLinkId: 0, lastRerouteId: 0 }
    const facts = { id: block.id, name: block.name, version: 1, revision: 0, state, inputNode: side(-10), outputNode: side(-20) }
    const data = { ...facts, ...empty }
    const subgraph = root.createSubgraph(data)
    subgraph.configure(data)
    this.fill(subgraph, block)
    for (const [name, slots] of block.takes) {
      let shown
      for (const [id, slot] of slots) {
        const node = subgraph.getNodeById(id)
        const input = node.inputs.find((input) => input.name === slot)
        if (!input) throw new Error(`${node.type} has no input ${slot}`)
        shown ??= subgraph.addInput(name, String(input.type))
        if (!shown.connect(input, node)) throw new Error(`${block.name}.${name} does not fit ${node.type}.${slot}`)
      }
    }
    for (const [name, id, output] of block.gives) {
      const node = subgraph.getNodeById(id)
      const slot = node.outputs.find((slot) => slot.name === output)
      subgraph.addOutput(name, String(slot.type)).connect(slot, node)
    }
    const right = Math.max(...block.groups.map(({ bounding: [x, , w] }) => x + w))
    subgraph.inputNode.pos = [-260, 40]
    subgraph.outputNode.pos = [right + 60, 40]
    subgraph.inputNode.arrange()
    subgraph.outputNode.arrange()
    Object.assign(subgraph, { name: block.name, description: block.description, category: 'Hallo3' })
  },

  // A block's node as it is saved: with its own values, and the picture of a node inside that it shows.
  furnish(node, block, values) {
    const names = node.inputs.filter(({ widget }) => widget).map(({ name }) => name)
    for (const name of Object.keys(values)) if (!names.includes(name)) throw new Error(`${block.name} has no widget ${name}`)
    node.widgets_values = names.map((name, i) => values[name] ?? node.widgets_values[i])
    if (node.widgets_values_named) Object.assign(node.widgets_values_named, values)
    const picture = '$$canvas-image-preview'
    const shown = { name: picture, sourceNodeId: String(block.preview), sourcePreviewName: picture }
    node.properties.previewExposures = block.preview ? [shown] : []
  },

  // Links a block's inputs and output to new nodes, as a person would: [kind, output, input] and [output, kind, input].
  feed(block, givers, taker) {
    const graph = window.app.rootGraph
    const node = graph.nodes.find(({ type }) => type === block)
    const added = (kind) => {
      const other = window.LiteGraph.createNode(kind)
      graph.add(other)
      return other
    }
    for (const [kind, output, input] of givers) {
      const giver = added(kind)
      giver.connect(giver.findOutputSlot(output), node, node.findInputSlot(input))
    }
    const last = added(taker[1])
    node.connect(node.findOutputSlot(taker[0]), last, last.findInputSlot(taker[2]))
  },

  // Opens a workflow as a person does, and waits until the page has laid it out.
  async open(workflow, name) {
    window.app.extensionManager.toast.removeAll()
    await window.app.loadGraphData(structuredClone(workflow), true, true, name)
    const sizes = () => JSON.stringify(window.app.rootGraph.nodes.map((node) => [...node.pos, ...node.size]))
    for (let before = ''; before !== sizes(); ) {
      before = sizes()
      await new Promise((done) => setTimeout(done, 250))
    }
  },

  save() {
    const workflow = window.app.rootGraph.serialize()
    delete workflow.extra.ds // where one looked last
    return JSON.parse(JSON.stringify(workflow))
  },

  async prompt() {
    return (await window.app.graphToPrompt()).output
  },

  // All that a person would see to be wrong with the open workflow, `saved` being what was opened.
  faults(saved) {
    const [graph, known, found] = [window.app.rootGraph, window.LiteGraph.registered_node_types, []]
    for (const [id, from, output, to, input, type] of saved.links) {
      const link = graph.getLink(id)
      const now = link && [link.origin_id, link.origin_slot, link.target_id, link.target_slot, link.type]
      if (String(now) !== String([from, output, to, input, type])) found.push(`link ${id} was dropped or changed`)
    }
    for (const node of graph.nodes) {
      const name = `${node.type} (${node.id})`
      if (!known[node.type]) found.push(`${name}: the page does not know it`)
      if (node.has_errors) found.push(`${name} is red`)
      for (const { name: input, widget, link } of node.inputs ?? [])
        if (!widget && link == null && input in (known[node.type]?.nodeData?.input?.required ?? {}))
          found.push(`${name}: ${input} is not linked`)
      if (node.mode !== 0) continue
      for (const widget of node.widgets ?? []) {
        const choices = widget.options?.values
        if (Array.isArray(choices) && !choices.includes(widget.value))
          found.push(`${name}: ${widget.name} has no choice ${widget.value}`)
      }
    }
    const notices = document.querySelectorAll('[role=dialog], [role=alert], .p-toast-message')
    for (const notice of notices) if (notice.getClientRects().length) found.push(`notice: ${notice.innerText.trim()}`)
    return found.concat(this.overlaps(graph.nodes))
  },

  // The subgraphs that the page offers beside nodes.
  blueprints() {
    const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s
    return stores.get('subgraph').subgraphBlueprints.map((blueprint) => blueprint.display_name)
  },

  // The scale at which all of the workflow is in sight.
  async fitted() {
    await window.app.extensionManager.command.execute('Comfy.Canvas.FitView')
    await new Promise((done) => setTimeout(done, 500))
    return window.app.canvas.ds.scale
  },

  // Links that run behind a node which they do not join, as the page draws them with all of the graph in sight.
  async hidden() {
    await window.app.extensionManager.command.execute('Comfy.Canvas.FitView')
    await new Promise((done) => setTimeout(done, 1000))
    window.app.canvas.draw(true, true)
    const [graph, found, fine, title] = [window.app.rootGraph, [], 1 / 3, window.LiteGraph.NODE_TITLE_HEIGHT]
    const area = window.app.canvas.ds.visible_area
    const canvas = new OffscreenCanvas(Math.ceil(area[2] * fine), Math.ceil(area[3] * fine))
    const pen = canvas.getContext('2d', { willReadFrequently: true })
    for (const link of graph.links.values()) {
      const paths = [link, ...window.LiteGraph.LLink.getReroutes(graph, link)].map(({ path }) => path)
      if (!paths.every(Boolean)) throw new Error(`link ${link.id} is not drawn`)
      pen.setTransform(1, 0, 0, 1, 0, 0)
      pen.clearRect(0, 0, canvas.width, canvas.height)
      pen.setTransform(fine, 0, 0, fine, -area[0] * fine, -area[1] * fine)
      pen.lineWidth = 3
      for (const path of paths) pen.stroke(path)
      for (const { id, type, pos, size } of graph.nodes) {
        if (id === link.origin_id || id === link.target_id) continue
        const [x, y, w, h] = [pos[0] - area[0] + 6, pos[1] - area[1] - title + 6, size[0] - 12, size[1] + title - 12]
        const { data } = pen.getImageData(...[x, y, w, h].map((value) => Math.round(value * fine)))
        if (data.some((value, i) => i % 4 === 3 && value > 99))
          found.push(`${graph.getNodeById(link.origin_id).type} to ${graph.getNodeById(link.target_id).type} behind ${type} (${id})`)
      }
    }
    return found
  },

  // Nodes that cover one another, or stick out of the group that they are in.
  overlaps(nodes) {
    const title = window.LiteGraph.NODE_TITLE_HEIGHT
    const box = ({ type, id, pos: [x, y], size: [w, h] }) => ({ name: `${type} (${id})`, x, y: y - title, w, h: h + title })
    const meets = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h
    const boxes = nodes.map(box)
    const found = boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => meets(a, b)).map((b) => `${a.name} covers ${b.name}`))
    for (const { title, pos: [x, y], size: [w, h] } of window.app.rootGraph.groups)
      for (const b of boxes.filter((b) => meets(b, { x, y, w, h })))
        if (b.x < x || b.y < y || b.x + b.w > x + w || b.y + b.h > y + h) found.push(`${b.name} sticks out of ${title}`)
    return found
  },
}
