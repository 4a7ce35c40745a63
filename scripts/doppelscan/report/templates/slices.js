// Moves the three planes of a pair through the volume: all slices lie in mosaics that are decoded when a slider is first moved.
(function () {
  var TILES = 8;
  function read(text, side, done) {
    var image = new Image();
    image.onload = function () {
      var canvas = document.createElement("canvas"), context = canvas.getContext("2d", { willReadFrequently: true });
      canvas.width = image.width; canvas.height = image.height;
      context.drawImage(image, 0, 0);
      var pixels = context.getImageData(0, 0, image.width, image.height).data, width = image.width;
      done(function (x, y, z) { return pixels[4 * ((Math.floor(z / TILES) * side + y) * width + (z % TILES) * side + x)]; });
    };
    image.src = "data:image/webp;base64," + text;
  }
  // Row r and column c of the three planes, one below the other, through slice k.
  function place(r, c, k, side) {
    var plane = Math.floor(r / side), up = side - 1 - (r % side);
    return plane === 0 ? [k, c, up] : plane === 1 ? [c, k, up] : [c, up, k];
  }
  function paint(figure, side, colour, k) {
    var canvas = figure.querySelector("canvas"), old = figure.querySelector("img");
    if (!canvas) {
      canvas = document.createElement("canvas");
      canvas.width = side; canvas.height = 3 * side;
      canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", old.alt);
      figure.replaceChild(canvas, old);
    }
    var context = canvas.getContext("2d"), data = context.createImageData(side, 3 * side);
    for (var r = 0; r < 3 * side; r++) for (var c = 0; c < side; c++) {
      var at = place(r, c, k, side), rgb = colour(at[0], at[1], at[2]), i = 4 * (r * side + c);
      data.data[i] = rgb[0]; data.data[i + 1] = rgb[1]; data.data[i + 2] = rgb[2]; data.data[i + 3] = 255;
    }
    context.putImageData(data, 0, 0);
  }
  function grey(volume) { return function (x, y, z) { var v = volume(x, y, z); return [v, v, v]; }; }
  function mixed(from, to, share) { return from.map(function (v, i) { return v + share * (to[i] - v); }); }
  // Lets `slider` go through the slices of one pair: `mosaics` holds three of them, `figures` are image, match, difference and agreement.
  window.goThroughSlices = function (mosaics, slider, place, figures) {
    var side = parseInt(slider.max, 10) + 1, asked = false, volumes = {}, own = Array.from(figures);
    function show() {
      var k = parseInt(slider.value, 10), image = volumes.synthetic, moved = volumes.aligned, agree = volumes.agreement;
      place.textContent = (k + 1) + " of " + side;
      if (!image || !moved || !agree) return;
      paint(own[0], side, grey(image), k);
      paint(own[1], side, grey(moved), k);
      paint(own[2], side, function (x, y, z) {
        return mixed([255, 255, 255], {{ hues.differs }}, Math.min(1, Math.abs(image(x, y, z) - moved(x, y, z)) / 128));
      }, k);
      paint(own[3], side, function (x, y, z) {
        var v = image(x, y, z), grey = {{ grey }} * v, lit = Math.min(1, v / 25);
        var told = Math.min(1, Math.max(-1, (agree(x, y, z) / 255 - {{ scale.middle }}) / {{ scale.high - scale.middle }}));
        return mixed([grey, grey, grey], told > 0 ? {{ hues.agrees }} : {{ hues.disagrees }}, {{ tint }} * lit * Math.abs(told));
      }, k);
    }
    slider.value = Math.floor(side / 2);
    show();
    slider.oninput = function () {
      if (!asked) {
        asked = true;
        ["synthetic", "aligned", "agreement"].forEach(function (name) {
          read(mosaics[name], side, function (volume) { volumes[name] = volume; show(); });
        });
      }
      show();
    };
  };
})();
