// Runs inside ComfyUI's page: draws a workflow as tools/workflows/drawing.py lays it out, and says what is wrong with one.
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
    return this.save()
  },
  // Makes a block of the graph: all but the nodes of the kinds `outside`, whose links become the block's own. `fields` are
  // widgets in it that it shows, as [kind, name]; `preview` is the kind whose picture it shows.
  enclose(name, description, outside, fields, preview) {
    const graph = window.app.rootGraph
    const inside = graph.nodes.filter((node) => !outside.includes(node.type))
    const { subgraph, node } = graph.convertToSubgraph(new Set([...inside, ...graph.groups]))
    for (const [kind, name] of fields) {
      const inner = subgraph.nodes.find(({ type }) => type === kind)
      const slot = inner.inputs.find((input) => input.name === name)
      if (slot.link == null) subgraph.addInput(name, slot.type).connect(slot, inner)
    }
    subgraph.name = node.title = name
    Object.assign(subgraph, { description, category: 'Hallo3' })
    const shown = String(subgraph.nodes.find(({ type }) => type === preview).id)
    const picture = '$$canvas-image-preview'
    const exposed = [{ name: picture, sourceNodeId: shown, sourcePreviewName: picture }]
    return { node, exposed: { [node.id]: { previewExposures: exposed } } }
  },

  // A workflow as it is saved, with further properties of nodes, by their number.
  saveWith(properties) {
    const workflow = this.save()
    for (const node of workflow.nodes) Object.assign(node.properties, properties[node.id] ?? {})
    return workflow
  },

  // The block alone.
  wrap(name, description, outside, fields, preview) {
    const graph = window.app.rootGraph
    const { node, exposed } = this.enclose(name, description, outside, fields, preview)
    for (const other of graph.nodes.filter((other) => other !== node)) graph.remove(other)
    node.pos = [0, 0]
    node.setSize([400, node.computeSize()[1]])
    return this.saveWith(exposed)
  },

  // The block with the nodes around it, each where `places` has its kind: [x, y, width, height]; null: it is left out.
  surround(name, description, outside, fields, preview, places, groups) {
    const graph = window.app.rootGraph
    const { node, exposed } = this.enclose(name, description, outside, fields, preview)
    const notes = graph.nodes.filter(({ type }) => type === 'MarkdownNote')
    for (const other of [...graph.nodes]) {
      const place = other === node ? places.block : places[other.type]
      if (!place || notes.indexOf(other) > 0) {
        graph.remove(other)
        continue
      }
      other.pos = place.slice(0, 2)
      other.setSize(place.slice(2))
      if (other.type === 'MarkdownNote') other.widgets[0].value = places.words
      if (other.type === 'SaveVideo') other.widgets[0].value = places.prefix
    }
    for (const { title, bounding, color } of groups) {
      const group = new window.LiteGraph.LGraphGroup(title)
      graph.add(group)
      Object.assign(group, { pos: bounding.slice(0, 2), size: bounding.slice(2), color })
    }
    return this.saveWith(exposed)
  },

  // Links a block's inputs and output to new nodes, as a person would: [kind, output, input] and [output, kind, input].
  feed(block, givers, taker) {
    const graph = window.app.rootGraph
    const node = graph.nodes.find(({ title }) => title === block)
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
