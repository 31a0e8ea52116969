(function () {
  "use strict";
  var root = document.documentElement;
  document.getElementById("theme").addEventListener("click", function () {
    var dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : window.matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  document.querySelectorAll(".clip").forEach(function (clip) {
    var audio = clip.querySelector("audio");
    var picture = clip.querySelector(".picture");
    var head = clip.querySelector(".playhead");
    function draw() {
      if (!audio.duration) { return; }
      head.style.opacity = 1;
      head.style.left = (100 * audio.currentTime) / audio.duration + "%";
      if (!audio.paused) { requestAnimationFrame(draw); }
    }
    audio.addEventListener("play", function () {
      document.querySelectorAll("audio").forEach(function (other) { if (other !== audio) { other.pause(); } });
      requestAnimationFrame(draw);
    });
    audio.addEventListener("seeked", draw);
    picture.addEventListener("click", function (event) {
      if (!audio.duration) { return; }
      var box = picture.getBoundingClientRect();
      audio.currentTime = (audio.duration * (event.clientX - box.left)) / box.width;
      audio.play();
    });
  });
})();
