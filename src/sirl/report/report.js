(function () {
  var root = document.documentElement, button = document.getElementById('theme'), themes = ['auto', 'light', 'dark'];
  var all = document.getElementById('expand'), bar = document.getElementById('filters'), at = 0, texts = null;
  var items = Array.prototype.slice.call(document.querySelectorAll('#pairs > details'));
  root.classList.add('js');
  button.addEventListener('click', function () {
    at = (at + 1) % 3;
    root.dataset.theme = themes[at];
    button.textContent = 'Theme: ' + themes[at];
  });
  // most conversations lie in templates, so that thousands of them open at once
  function unfold(d) {
    var folded = d.querySelector(':scope > template');
    if (folded) folded.replaceWith(folded.content);
  }
  addEventListener('toggle', function (event) {
    if (event.target.open) unfold(event.target);
  }, true);
  function open(state) {
    document.querySelectorAll('details').forEach(function (d) { if (!d.hidden) d.open = state; });
  }
  if (all) all.addEventListener('click', function () {
    var state = all.textContent === 'Open all';
    open(state);
    all.textContent = state ? 'Close all' : 'Open all';
  });
  // on paper: every fold but the conversations, of which those that were opened or filtered for
  addEventListener('beforeprint', function () {
    document.querySelectorAll('details').forEach(function (d) { if (!d.closest('#pairs')) d.open = true; });
  });
  if (!bar) return;
  var fields = Array.prototype.slice.call(bar.querySelectorAll('select')), search = bar.querySelector('input');
  // `nothing`: a number of 0 was clicked, whose verdict no conversation has
  function apply(nothing) {
    var wanted = search.value.trim().toLowerCase(), seen = 0;
    if (wanted && !texts) texts = items.map(function (d) {
      var folded = d.querySelector(':scope > template');
      return (d.textContent + (folded ? folded.content.textContent : '')).toLowerCase();
    });
    items.forEach(function (d, i) {
      var fits = fields.every(function (f) { return !f.value || d.dataset[f.name] === f.value; });
      fits = nothing !== true && fits && (!wanted || texts[i].indexOf(wanted) >= 0);
      d.hidden = !fits;
      seen += fits;
    });
    document.getElementById('count').textContent = seen.toLocaleString('en') + ' of ' + items.length.toLocaleString('en');
  }
  function set(values) {
    var nothing = false;
    fields.forEach(function (f) {
      f.value = values[f.name] || '';
      if (f.selectedIndex >= 0) return;
      f.value = '';
      nothing = true;
    });
    search.value = '';
    apply(nothing);
  }
  // the conversations that the filters leave, as a table for other programs
  var COLUMNS = ['kind', 'attack', 'category', 'before', 'after', 'status', 'decoding', 'goal', 'prompt', 'prompt_after', 'answer_before', 'answer_after'];
  function said(part) {
    var texts = part ? part.querySelectorAll('.text, .cut') : [];
    return Array.prototype.map.call(texts, function (t) { return t.textContent; }).join('\n');
  }
  function row(d) {
    var folded = d.querySelector(':scope > template'), inside = (folded ? folded.content : d).querySelector('.inside');
    var cells = { goal: '', prompt: [], prompt_after: [] }, where = 'prompt';
    cells.decoding = /· sampled$/.test(d.querySelector('.about').textContent) ? 'sample' : 'greedy';
    d.querySelector('summary').childNodes.forEach(function (n) { if (n.nodeType === 3) cells.goal += n.textContent; });
    Array.prototype.forEach.call(inside.children, function (part) {
      if (part.className === 'asked' && cells.prompt.length) where = 'prompt_after';
      if (part.className === 'turn') cells[where].push(part.querySelector('.who').textContent + ': ' + said(part));
    });
    return COLUMNS.map(function (name) {
      if (name in d.dataset) return d.dataset[name];
      if (name in cells) return Array.isArray(cells[name]) ? cells[name].join('\n\n') : cells[name].trim();
      return said(inside.querySelector(name === 'answer_before' ? '.answer.before' : '.answer.after'));
    });
  }
  // a text that a spreadsheet would take for a formula gets an apostrophe in front
  function field(text) {
    return '"' + (/^[=+\-@\t\r]/.test(text) ? "'" + text : text).replace(/"/g, '""') + '"';
  }
  document.getElementById('csv').addEventListener('click', function () {
    var shown = items.filter(function (d) { return !d.hidden; }).map(row), link = document.createElement('a');
    var lines = [COLUMNS].concat(shown).map(function (cells) { return cells.map(field).join(','); });
    link.href = URL.createObjectURL(new Blob(['\ufeff' + lines.join('\r\n') + '\r\n'], { type: 'text/csv' }));
    link.download = 'conversations.csv';
    link.click();
    setTimeout(function () { URL.revokeObjectURL(link.href); }, 60000);
  });
  fields.forEach(function (f) { f.addEventListener('change', apply); });
  search.addEventListener('input', apply);
  document.getElementById('reset').addEventListener('click', function () { set({}); });
  document.addEventListener('click', function (event) {
    var link = event.target.closest && event.target.closest('a.to');
    if (link) set(link.dataset);
  });
  apply();
})();
