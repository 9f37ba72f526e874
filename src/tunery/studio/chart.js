// A chart of Studio: colours of the page, numbers in the page's language, points that stay in the browser.
// What it shows is decided in charts.py; names and descriptions are data here, drawn on a canvas or escaped by ECharts.
import { echarts } from "nicegui-echart";

const KEYS = { "+": zoomed(0.5), "-": zoomed(2), ArrowLeft: moved(-0.2), ArrowRight: moved(0.2), 0: () => [0, 100] };

export default {
  template: "<div @keydown='key'></div>",
  props: { options: Object, colours: Array, percent: Boolean, time: Boolean, language: String },
  mounted() {
    this.points = this.options.series.map((series) => series.data);
    this.marks = [];
    this.chart = echarts.init(this.$el, look(this.colours));
    this.chart.setOption(this.formatted());
    this.sizes = new ResizeObserver(() => this.chart.resize());
    this.sizes.observe(this.$el);
    this.looks = new MutationObserver(() => this.dress());
    this.looks.observe(document.body, { attributeFilter: ["class"] });
  },
  beforeUnmount() {
    this.sizes.disconnect();
    this.looks.disconnect();
    this.chart.dispose();
  },
  methods: {
    grow(added) {
      added.forEach((points, line) => this.points[line].push(...points));
      this.draw();
    },
    replace(points) {
      this.points = points;
      this.draw();
    },
    point_out(x, text) {
      this.marks = [{ xAxis: x, label: { formatter: text, position: "insideEndTop" } }];
      this.draw();
    },
    whole() {
      this.chart.dispatchAction({ type: "dataZoom", start: 0, end: 100 });
    },
    save(name) {
      const link = document.createElement("a");
      link.download = name;
      link.href = this.chart.getDataURL({ pixelRatio: 2, excludeComponents: ["toolbox", "dataZoom"] });
      link.click();
    },
    counted() {
      return this.points.map((points) => points.length);
    },
    draw() {
      const series = this.points.map((data) => ({ data }));
      if (this.marks.length) series[0].markLine = { symbol: "none", data: this.marks };
      this.chart.setOption({ series });
    },
    dress() {
      const zoom = this.chart.getOption().dataZoom?.[0]; // a theme begins again with the first options
      this.chart.setTheme(look(this.colours));
      this.draw();
      if (zoom) this.chart.dispatchAction({ type: "dataZoom", start: zoom.start, end: zoom.end });
    },
    formatted() {
      const share = { style: "percent", maximumFractionDigits: 1 };
      const value = new Intl.NumberFormat(this.language, this.percent ? share : { maximumSignificantDigits: 5 });
      const whole = new Intl.NumberFormat(this.language, { maximumFractionDigits: 0 });
      const day = new Intl.DateTimeFormat(this.language, { day: "numeric", month: "short" });
      const moment = new Intl.DateTimeFormat(this.language, { dateStyle: "short", timeStyle: "short" });
      const options = { ...this.options };
      options.yAxis = { ...options.yAxis, axisLabel: { formatter: (number) => value.format(number) } };
      options.tooltip = { ...options.tooltip, valueFormatter: (number) => (number == null ? "–" : value.format(number)) };
      if (options.xAxis.type !== "category") {
        const [short, full] = this.time ? [day, moment] : [whole, whole];
        options.xAxis = {
          ...options.xAxis,
          axisLabel: { formatter: (place) => short.format(place), hideOverlap: true },
          axisPointer: { label: { formatter: (at) => full.format(at.value) } },
        };
      }
      return options;
    },
    key(event) {
      const zoom = this.chart.getOption().dataZoom?.[0];
      if (!zoom || !KEYS[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const [start, end] = KEYS[event.key](zoom.start, zoom.end);
      this.chart.dispatchAction({ type: "dataZoom", start: Math.max(0, start), end: Math.min(100, end) });
    },
  },
};

function zoomed(factor) {
  return (start, end) => {
    const half = ((end - start) * factor) / 2;
    return [(start + end) / 2 - half, (start + end) / 2 + half];
  };
}

function moved(share) {
  return (start, end) => {
    const by = Math.min(Math.max((end - start) * share, -start), 100 - end);
    return [start + by, end + by];
  };
}

function look(colours) {
  const style = getComputedStyle(document.body);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const [ink, quiet, line, surface] = ["ink", "quiet", "line", "surface"].map(colour);
  const axis = {
    axisLine: { lineStyle: { color: line } },
    axisTick: { lineStyle: { color: line } },
    axisLabel: { color: quiet },
    nameTextStyle: { color: quiet },
    splitLine: { lineStyle: { color: line } },
  };
  return {
    color: colours.map((number) => colour(`series-${number}`)),
    backgroundColor: surface,
    textStyle: { color: ink, fontFamily: style.fontFamily },
    legend: { textStyle: { color: ink }, pageTextStyle: { color: ink }, pageIconColor: ink },
    tooltip: { backgroundColor: surface, borderColor: line, textStyle: { color: ink } },
    toolbox: { iconStyle: { borderColor: quiet }, emphasis: { iconStyle: { borderColor: ink } } },
    dataZoom: { borderColor: line, textStyle: { color: quiet } },
    markLine: { lineStyle: { color: quiet }, label: { color: ink } },
    valueAxis: axis,
    categoryAxis: axis,
    timeAxis: axis,
  };
}
