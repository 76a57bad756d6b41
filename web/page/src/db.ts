// Conversations in the browser's own database. Where it may not be used (private windows of some browsers) they live as
// long as the page does.
import type { Conversation } from "./conversation";

const STORE = "conversations";
let opened: Promise<IDBDatabase | null> | undefined;

function open(): Promise<IDBDatabase | null> {
  opened ??= new Promise((resolve) => {
    try {
      const request = indexedDB.open("coterie", 1);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opened;
}

async function run<T>(mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest<T>): Promise<T | undefined> {
  const database = await open();
  if (!database) return undefined;
  return new Promise((resolve, reject) => {
    const request = act(database.transaction(STORE, mode).objectStore(STORE));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export const save = (conversation: Conversation) => run("readwrite", (store) => store.put(conversation));
export const remove = (id: string) => run("readwrite", (store) => store.delete(id));
export async function all(): Promise<Conversation[]> {
  const list = (await run("readonly", (store) => store.getAll())) as Conversation[] | undefined;
  return (list ?? []).sort((a, b) => b.updated - a.updated);
}
