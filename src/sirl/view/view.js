// Follows a running training: the same page again, of which the part that changes is taken over. Scripts of a page that
// is parsed like this do not run.
(function () {
  var EVERY = 4000;
  function again() {
    var live = document.getElementById('live');
    if (!live || live.dataset.live !== 'yes') return;
    setTimeout(function () {
      if (document.hidden) return again();
      fetch(location.href).then(function (answer) { return answer.text(); }).then(function (text) {
        var next = new DOMParser().parseFromString(text, 'text/html').getElementById('live');
        if (next) live.replaceWith(next);
        again();
      }, again);
    }, EVERY);
  }
  again();
})();
