// A click on a column's heading sorts its table: one way, the other way, and back to the order of the page.
(function () {
  var NUMBER = /^(?:p\s*)?[<=≤÷]?\s*([+\-−]?(?:\d[\d,]*)?\.?\d+)(?![\d\-:]|\s*[a-z_]*\d)/i;
  // what a cell is sorted by: `data-sort`, or its text without the interval in small print
  function text(cell) {
    if (cell.dataset.sort !== undefined) return cell.dataset.sort;
    var copy = cell.cloneNode(true);
    copy.querySelectorAll('small').forEach(function (small) { small.remove(); });
    return copy.textContent.trim();
  }
  function number(words) {
    var found = NUMBER.exec(words);
    return found ? parseFloat(found[1].replace(/,/g, '').replace('−', '-')) : NaN;
  }
  // cells without a value come last either way
  function compare(a, b, down) {
    if (a.blank || b.blank) return a.blank - b.blank;
    var order = typeof a.key === 'number' ? a.key - b.key : a.key.localeCompare(b.key, 'en');
    return down ? -order : order;
  }
  function sort(rows, at, direction) {
    var words = rows.map(function (row) { return text(row.cells[at]); }), numbers = words.map(number);
    var known = numbers.filter(function (n) { return !isNaN(n); }).length;
    var said = words.filter(function (w) { return w && w !== '–'; }).length, numeric = known > 0 && 2 * known >= said;
    // of numbers the largest come first, of words those from A
    var down = numeric === (direction === 'first');
    var keyed = rows.map(function (row, i) {
      var blank = numeric ? isNaN(numbers[i]) : !words[i] || words[i] === '–';
      return { row: row, key: numeric ? numbers[i] : words[i], blank: blank, at: i };
    });
    if (direction) keyed.sort(function (a, b) { return compare(a, b, down) || a.at - b.at; });
    return { rows: keyed.map(function (k) { return k.row; }), order: direction && (down ? 'descending' : 'ascending') };
  }
  document.querySelectorAll('table').forEach(function (table) {
    var head = table.tHead && table.tHead.rows[table.tHead.rows.length - 1], body = table.tBodies[0];
    if (!head || !body) return;
    var all = Array.prototype.slice.call(body.rows);
    var rows = all.filter(function (row) { return !row.classList.contains('total'); });
    if (rows.length < 2 || all.some(function (row) { return row.cells.length !== head.cells.length; })) return;
    Array.prototype.forEach.call(head.cells, function (cell, at) {
      if (cell.nodeName !== 'TH' || cell.dataset.sort === 'no' || cell.querySelector('a')) return;
      var button = document.createElement('button'), state = '';
      button.type = 'button';
      button.className = 'sort';
      while (cell.firstChild) button.appendChild(cell.firstChild);
      cell.appendChild(button);
      button.addEventListener('click', function () {
        state = !cell.hasAttribute('aria-sort') ? 'first' : state === 'first' ? 'second' : '';
        Array.prototype.forEach.call(head.cells, function (other) { other.removeAttribute('aria-sort'); });
        var sorted = sort(rows, at, state);
        if (sorted.order) cell.setAttribute('aria-sort', sorted.order);
        // means and totals stay where they are
        all.forEach(function (row) { body.appendChild(rows.indexOf(row) < 0 ? row : sorted.rows.shift()); });
      });
    });
  });
})();
