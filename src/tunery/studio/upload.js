// Sends a file in parts, one after the other, and goes on where it stopped: after a lost connection by itself, after a
// reload once the same file is chosen again. What was received is remembered by the file's name, size and time.
const KEPT = "tunery-uploads";
const WAIT_MS = 1000;
const LONGEST_WAIT_MS = 15000;
const WAITED_FOR = [408, 429, 502, 503, 504];

class Refused extends Error {}

export default {
  template: `
    <div class="tunery-drop" :class="{ 'tunery-drop-over': over }" @dragover.prevent="over = true"
         @dragleave.prevent="over = false" @drop.prevent="dropped">
      <label class="tunery-browse">
        <input type="file" class="tunery-file" accept=".jsonl,.json,.txt" @change="chosen" :disabled="disabled || !!sending">
        <span class="tunery-browse-button">{{ texts.browse }}</span>
        <span>{{ texts.drop }}</span>
      </label>
      <div v-if="interrupted && !sending && !error" class="quiet">{{ interrupted }}</div>
      <div v-if="sending" class="tunery-progress">
        <div class="tunery-name">{{ sending.name }}</div>
        <progress :value="done" :max="sending.size || 1" :aria-label="sending.name"></progress>
        <div role="status">{{ waiting ? texts.waiting : texts.sent }} {{ percent }} %</div>
        <button type="button" class="tunery-browse-button" @click="stop">{{ texts.cancel }}</button>
      </div>
      <div v-if="error" role="alert" class="tunery-error">{{ error }}</div>
    </div>`,
  props: { base: String, account: String, purpose: String, part: Number, texts: Object, disabled: Boolean },
  data() {
    return { over: false, sending: null, done: 0, waiting: false, error: "", interrupted: "", stopped: false };
  },
  computed: {
    percent() {
      return this.sending && this.sending.size ? Math.floor((100 * this.done) / this.sending.size) : 0;
    },
  },
  mounted() {
    const last = Object.values(kept(this.account)).at(-1);
    if (last) this.interrupted = this.texts.interrupted.replace("{name}", () => last.name);
  },
  beforeUnmount() {
    this.stopped = true;
  },
  methods: {
    dropped(event) {
      this.over = false;
      if (!this.disabled && !this.sending && event.dataTransfer.files.length) this.send(event.dataTransfer.files[0]);
    },
    chosen(event) {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) this.send(file);
    },
    async send(file) {
      Object.assign(this, { sending: file, done: 0, error: "", waiting: false, stopped: false });
      try {
        const id = await this.whole(file);
        if (id) this.$emit("kept", { id });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        this.error = error.message;
      } finally {
        Object.assign(this, { sending: null, interrupted: "" });
      }
    },
    async whole(file) {
      const key = [file.name, file.size, file.lastModified].join("/");
      const upload = (await this.begun(key)) || (await this.begin(key, file));
      for (let at = 0; at < file.size && !this.stopped; at += this.part) {
        if (!upload.parts[at]) {
          const part = await this.ask("POST", `/uploads/${upload.id}/parts`, file.slice(at, at + this.part));
          upload.parts[at] = part.id;
          keep(this.account, key, upload);
        }
        this.done = Math.min(file.size, at + this.part);
      }
      if (this.stopped) return null;
      const order = Object.keys(upload.parts).sort((one, other) => one - other);
      const ids = order.map((at) => upload.parts[at]);
      const made = await this.ask("POST", `/uploads/${upload.id}/complete`, JSON.stringify({ part_ids: ids }));
      keep(this.account, key, null);
      return made.file_id;
    },
    async begun(key) {
      const upload = kept(this.account)[key];
      if (!upload) return null;
      if (upload.part === this.part) {
        try {
          const found = await this.ask("GET", `/uploads/${upload.id}`);
          if (found.status === "pending") return upload;
        } catch (error) {
          if (!(error instanceof Refused)) throw error;
        }
      }
      keep(this.account, key, null);
      return null;
    },
    async begin(key, file) {
      const wanted = { filename: file.name, bytes: file.size, purpose: this.purpose };
      const { id } = await this.ask("POST", "/uploads", JSON.stringify(wanted));
      const upload = { id, name: file.name, part: this.part, parts: {} };
      keep(this.account, key, upload);
      return upload;
    },
    async ask(method, path, body) {
      for (let wait = WAIT_MS; !this.stopped; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
        let answer = null;
        try {
          answer = await fetch(this.base + path, { method, body, credentials: "same-origin" });
        } catch (error) {
          if (!(error instanceof TypeError)) throw error; // fetch's word for a lost connection
        }
        if (answer && !WAITED_FOR.includes(answer.status)) {
          const said = await answer.json();
          if (!answer.ok) throw new Refused(said.message);
          this.waiting = false;
          return said;
        }
        this.waiting = true;
        await online(wait);
      }
      throw new Refused(this.texts.stopped);
    },
    stop() {
      this.stopped = true;
    },
  },
};

function kept(account) {
  return JSON.parse(localStorage.getItem(`${KEPT}-${account}`) || "{}");
}

function keep(account, key, upload) {
  const all = kept(account);
  delete all[key];
  if (upload) all[key] = upload;
  localStorage.setItem(`${KEPT}-${account}`, JSON.stringify(all));
}

function online(wait) {
  return new Promise((resolve) => {
    const timer = setTimeout(ended, wait);
    window.addEventListener("online", ended);
    function ended() {
      clearTimeout(timer);
      window.removeEventListener("online", ended);
      resolve();
    }
  });
}
